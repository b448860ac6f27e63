"""Listeners: addresses, TLS, unix sockets, slow clients, and which APIs each carries."""

import asyncio
import ssl
import stat
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from homeserver.http import bodies, connection
from homeserver.http.dispatch import Dispatcher
from homeserver.http.proxies import Proxies
from homeserver.http.router import Router
from homeserver.http.server import Binding, Server
from homeserver.http.service import health_endpoints, metrics_endpoints, welcome_endpoints
from homeserver.runtime.clock import SystemClock
from homeserver.runtime.health import Health
from homeserver.runtime.limits import RateLimits
from homeserver.runtime.metrics import Metrics
from tests.http.certificate import CERTIFICATE, KEY
from tests.http.conftest import Connection, Edge, Tokens

if TYPE_CHECKING:
    from homeserver.services import Services


def listen(*bindings: Binding, proxies: Proxies | None = None) -> Server:
    health, metrics = Health(), Metrics()

    def dispatcher(router: Router) -> Dispatcher:
        services, limits = cast("Services", None), RateLimits(False, {}, SystemClock())
        return Dispatcher(router, services, Tokens(), metrics, proxies or Proxies([]), limits, 1000)

    endpoints = {
        "client": welcome_endpoints("example.org"),
        "metrics": metrics_endpoints(metrics),
        "health": health_endpoints(health),
    }
    return Server(bindings, endpoints, dispatcher, health)


async def connect(url: str) -> Connection:
    host, _, port = url.rpartition("//")[2].rpartition(":")
    return Connection(*await asyncio.open_connection(host.strip("[]"), int(port)))


async def test_each_listener_carries_its_own_apis() -> None:
    running = listen(Binding("127.0.0.1", 0, ("client",)), Binding("127.0.0.1", 0, ("metrics",)))
    await running.start()
    for address, expected in zip(
        running.addresses, ([200, 404, 200], [404, 200, 200]), strict=True
    ):
        connection = await connect(address)
        answers = [
            await connection.request("GET", path) for path in ("/", "/metrics", "/health/live")
        ]
        assert [answer.status for answer in answers] == expected
        connection.writer.close()
    await running.stop()


async def test_a_taken_port_is_named_and_nothing_stays_open() -> None:
    first = listen(Binding("127.0.0.1", 0, ("client",)))
    await first.start()
    port = int(first.addresses[0].rpartition(":")[2])
    second = listen(Binding("127.0.0.1", 0, ("client",)), Binding("127.0.0.1", port, ("client",)))
    with pytest.raises(OSError, match=f"127.0.0.1 port {port}"):
        await second.start()
    with pytest.raises(OSError):
        await connect(second.addresses[0])
    await first.stop()


async def test_tls_is_spoken_where_a_certificate_is_given(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_text(CERTIFICATE)
    key.write_text(KEY)
    running = listen(Binding("127.0.0.1", 0, ("client",), certificate, key))
    await running.start()
    assert running.addresses[0].startswith("https://")
    trusting = ssl.create_default_context(cadata=CERTIFICATE)
    port = int(running.addresses[0].rpartition(":")[2])
    connection = Connection(
        *await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname="localhost")
    )
    assert (await connection.request("GET", "/health/live")).status == 200
    connection.writer.close()
    await connection.writer.wait_closed()
    await running.stop()


async def test_a_unix_socket_is_for_owner_and_group_and_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "hs.sock"
    for _ in range(2):  # the second start finds no trace of the first
        running = listen(Binding("", 0, ("client",), socket=path), proxies=Proxies(["unix"]))
        await running.start()
        assert running.addresses == [f"unix:{path}"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        connection = Connection(*await asyncio.open_unix_connection(path))
        assert (await connection.request("GET", "/")).status == 200
        connection.writer.close()
        await running.stop()
        assert not path.exists()


async def test_a_body_that_does_not_come_is_given_up(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.02)
    connection = await edge.connect()
    await connection.send(
        b"POST /_matrix/client/v3/join/!r:test HTTP/1.1\r\nHost: t\r\n"
        b"Authorization: Bearer alice\r\nContent-Length: 100\r\n\r\n{"
    )
    answer = await connection.receive()
    assert (answer.status, answer.headers["connection"]) == (408, "close")


async def test_a_head_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.02)
    running = listen(Binding("127.0.0.1", 0, ("client",)))
    await running.start()
    client = await connect(running.addresses[0])
    await client.send(b"GET /health/live HTTP/1.1\r\nHost: ")
    assert await asyncio.wait_for(client.at_end(), 30)
    client.writer.close()
    await running.stop()
