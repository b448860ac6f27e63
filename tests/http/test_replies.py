"""Replies: errors, headers for browsers, compression, health and metrics."""

import asyncio
import gzip
import logging
import re

import pytest

from tests.http import endpoints
from tests.http.conftest import Edge

V3 = "/_matrix/client/v3"
CORS = {
    "access-control-allow-origin": "*",
    "access-control-allow-headers": "X-Requested-With, Content-Type, Authorization",
}


@pytest.mark.parametrize(
    ("how", "status", "errcode"),
    [("rejected", 403, "M_FORBIDDEN"), ("malformed", 400, "M_BAD_JSON")],
)
async def test_the_refusals_of_the_core_become_errors(
    edge: Edge, how: str, status: int, errcode: str
) -> None:
    answer = await edge.request("GET", f"{V3}/fail/{how}")
    assert (answer.status, answer.errcode) == (status, errcode)
    assert answer.json["error"] in {"You are banned", "depth is not a number"}


async def test_a_fault_of_ours_shows_a_number_that_stands_in_the_log(
    edge: Edge, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        answer = await edge.request("GET", f"{V3}/fail/fault?access_token=hidden")
    assert (answer.status, answer.errcode) == (500, "M_UNKNOWN")
    assert "secret detail" not in answer.json["error"]
    number = re.search(r"\[(\w+)\]", answer.json["error"])
    assert number is not None
    assert number.group(1) in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert "hidden" not in caplog.text


async def test_running_out_of_depth_is_the_clients_fault(edge: Edge) -> None:
    answer = await edge.request("GET", f"{V3}/fail/recursion")
    assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")


async def test_errors_carry_their_further_keys_and_headers(edge: Edge) -> None:
    answer = await edge.request("GET", f"{V3}/fail/limited")
    assert answer.status == 429
    assert answer.headers["retry-after"] == "2"
    assert answer.json == {
        "errcode": "M_LIMIT_EXCEEDED",
        "error": "Slow down",
        "retry_after_ms": 1500,
    }


async def test_interactive_authentication_answers_without_an_errcode(edge: Edge) -> None:
    answer = await edge.request("GET", f"{V3}/fail/interactive")
    assert (answer.status, answer.json) == (401, {"flows": [], "session": "s"})


@pytest.mark.parametrize(
    ("method", "target", "token"),
    [
        ("GET", f"{V3}/list", "alice"),
        ("GET", f"{V3}/list", "mallory"),
        ("GET", "/nothing", None),
        ("DELETE", f"{V3}/list", None),
        ("GET", f"{V3}/fail/fault", None),
        ("GET", f"{V3}/page", None),
        ("GET", f"{V3}/elsewhere", None),
        ("GET", "/health/live", None),
    ],
)
async def test_every_reply_is_readable_by_browsers(
    edge: Edge, method: str, target: str, token: str | None
) -> None:
    answer = await edge.request(method, target, token=token)
    assert CORS.items() <= answer.headers.items()
    for name in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
        assert name in answer.headers["access-control-allow-methods"]


@pytest.mark.parametrize("target", [f"{V3}/list", f"{V3}/rooms/!r:test/typing/@a:test", "/nothing"])
async def test_preflight_requests_run_no_logic(edge: Edge, target: str) -> None:
    answer = await edge.request("OPTIONS", target, token=None)
    assert (answer.status, answer.body) == (204, b"")
    assert CORS.items() <= answer.headers.items()


async def test_json_is_called_json(edge: Edge) -> None:
    for target in (f"{V3}/list", "/nothing", f"{V3}/fail/fault"):
        answer = await edge.request("GET", target)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["date"].endswith("GMT")


async def test_pages_run_no_scripts(edge: Edge) -> None:
    answer = await edge.request("GET", f"{V3}/page")
    assert answer.body.decode() == "<p>é</p>"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


async def test_redirects_name_the_place(edge: Edge) -> None:
    answer = await edge.request("GET", f"{V3}/elsewhere")
    assert (answer.status, answer.headers["location"]) == (302, "https://example.org/?a=b")


@pytest.mark.parametrize("size", [5_000, 100_000])
async def test_long_replies_are_compressed_when_asked(edge: Edge, size: int) -> None:
    plain = await edge.request("GET", f"{V3}/big/{size}")
    assert "content-encoding" not in plain.headers
    small = await edge.request(
        "GET", f"{V3}/big/{size}", headers={"Accept-Encoding": "br, gzip, deflate"}
    )
    assert small.headers["content-encoding"] == "gzip"
    assert small.headers["vary"] == "Accept-Encoding"
    assert len(small.body) < 1_000
    assert gzip.decompress(small.body) == plain.body


async def test_short_replies_are_never_compressed(edge: Edge) -> None:
    answer = await edge.request("GET", f"{V3}/list", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in answer.headers


async def test_the_handler_of_a_vanished_client_is_cancelled(edge: Edge) -> None:
    connection = await edge.connect()
    await connection.send(f"GET {V3}/wait HTTP/1.1\r\nHost: t\r\n\r\n".encode())
    await endpoints.waiting.wait()
    connection.writer.close()
    await asyncio.wait_for(endpoints.cancelled.wait(), 5)


async def test_a_connection_is_kept_or_closed_as_the_client_says(edge: Edge) -> None:
    connection = await edge.connect()
    for _ in range(3):
        kept = await connection.request("GET", f"{V3}/list")
        assert "connection" not in kept.headers
    closed = await connection.request("GET", f"{V3}/list", headers={"Connection": "close"})
    assert closed.headers["connection"] == "close"
    assert await connection.at_end()


async def test_http_1_0_is_answered(edge: Edge) -> None:
    connection = await edge.connect()
    await connection.send(f"GET {V3}/list HTTP/1.0\r\n\r\n".encode())
    assert (await connection.receive()).status == 200
    assert await connection.at_end()


async def test_bytes_that_are_no_http_are_refused_in_silence(
    edge: Edge, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await edge.connect()
    await connection.send(b"\x16\x03\x01 hello\r\n\r\n")
    assert (await connection.receive()).status == 400
    assert not caplog.records


async def test_while_draining_requests_finish_and_nothing_new_begins(edge: Edge) -> None:
    connection = await edge.connect()
    idle = await edge.connect()
    await idle.request("GET", f"{V3}/list")
    await connection.send(f"GET {V3}/soon HTTP/1.1\r\nHost: t\r\n\r\n".encode())
    await endpoints.waiting.wait()
    stopping = asyncio.create_task(edge.server.stop())
    await edge.health.draining.wait()
    assert await idle.at_end()
    assert not stopping.done()
    endpoints.cancelled.set()
    assert (await connection.receive()).status == 200
    await stopping
    with pytest.raises(OSError):
        await edge.connect()


async def test_health_says_whether_to_send_requests(edge: Edge) -> None:
    assert (await edge.request("GET", "/health/ready")).status == 200
    edge.health.add("database", lambda: "it can't be reached")
    answer = await edge.request("GET", "/health/ready")
    assert answer.status == 503
    assert answer.json["problems"] == {"database": "it can't be reached"}
    assert (await edge.request("GET", "/health/live")).status == 200


async def test_metrics_count_by_endpoint_and_not_by_path(edge: Edge) -> None:
    for name in ("a", "b"):
        await edge.request("GET", f"{V3}/big/{len(name)}")
        await edge.request("GET", f"/unknown/{name}")
    edge.metrics.gauge("homeserver_stream_position", "The newest position", lambda: 42.0)
    edge.metrics.committed(3, 0.002)
    text = (await edge.request("GET", "/metrics")).body.decode()
    label = 'endpoint="GET /_matrix/client/v3/big/{size}"'
    assert f"homeserver_request_seconds_count{{{label}}} 2.0" in text
    assert f'homeserver_replies_total{{{label},status="200"}} 2.0' in text
    assert 'homeserver_replies_total{endpoint="none",status="404"} 2.0' in text
    assert "homeserver_stream_position 42.0" in text
    assert 'homeserver_commit_items_bucket{le="4.0"} 1.0' in text
    assert 'homeserver_commit_items_bucket{le="2.0"} 0.0' in text
    assert "process_resident_memory_bytes" in text
    assert "unknown/a" not in text
