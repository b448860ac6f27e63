"""What goes over a connection: order, bodies, bounds, and everything that is no proper HTTP."""

import asyncio
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.http import connection as of_connections
from homeserver.http import wire
from tests.http import endpoints
from tests.http.conftest import Answer, Connection, Edge, edge_of

V3 = "/_matrix/client/v3"
TYPING = f"{V3}/rooms/!r:t/typing/@alice:test"
BODY = b'{"typing":true}'


def put(body: bytes = BODY, *more: str, target: str = TYPING) -> bytes:
    """A request with a body; further headers as `Name: value`."""
    lines = [f"PUT {target} HTTP/1.1", "Host: t", "Authorization: Bearer alice", *more]
    if not any(line.lower().startswith("transfer-encoding") for line in more):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def get(number: int) -> bytes:
    head = f"GET {V3}/list?limit={number} HTTP/1.1\r\nHost: t\r\n"
    return f"{head}Authorization: Bearer alice\r\n\r\n".encode()


async def goes_on(connection: Connection) -> None:
    """The connection still carries requests, and nothing stands between."""
    await connection.send(get(77))
    assert (await connection.receive()).json["limit"] == 77


async def is_refused(connection: Connection, status: int) -> None:
    """The last answer says why, and the connection ends."""
    answer = await connection.receive()
    assert (answer.status, answer.errcode) == (status, "M_UNKNOWN")
    assert answer.headers["connection"] == "close"
    assert await asyncio.wait_for(connection.at_end(), 30)


async def pours(connection: Connection, data: bytes, most: int) -> int:
    """Send data over and over until the server has had enough; how many bytes it was sent."""
    sent = 0
    answered = asyncio.create_task(connection.reader.readuntil(b"\r\n"))
    try:
        while sent < most and not answered.done():
            await connection.send(data)
            sent += len(data)
            await asyncio.sleep(0)
    except ConnectionError:
        pass
    status = (await answered).split()[1]
    assert status in {b"400", b"431"}
    return sent


async def test_a_thousand_requests_at_once_are_answered_in_order(edge: Edge) -> None:
    connection = await edge.connect()
    for number in range(1000):
        connection.writer.write(get(number) if number % 3 else put())
    for number in range(1000):
        answer = (await connection.receive()).json
        assert answer["limit"] == number if number % 3 else answer["typing"] is True
    await goes_on(connection)


async def test_a_long_body_behind_another_request_is_read(edge: Edge) -> None:
    connection = await edge.connect()
    for size in range(9_000, 90_000, 9_000):
        long = b'{"text":"' + b"x" * size + b'"}'
        upload = put(long, target="/_matrix/media/upload").replace(b"PUT", b"POST")
        connection.writer.write(get(1) + upload + get(2))
        assert (await connection.receive()).json["limit"] == 1
        assert (await connection.receive()).json == {"length": size}
        assert (await connection.receive()).json["limit"] == 2


@settings(max_examples=60, deadline=None)
@given(cuts=st.lists(st.integers(1, 600) | st.integers(1, 30_000), max_size=12))
def test_it_does_not_matter_where_the_bytes_are_cut(cuts: list[int]) -> None:
    chunked = b'8\r\n{"typing\r\n7;a=b\r\n":true}\r\n0\r\nX-After: 1\r\n\r\n'
    long = BODY + b" " * 40_000
    data = get(1) + put(long) + put(chunked, "Transfer-Encoding: chunked") + get(2)

    async def answers() -> list[Answer]:
        async with edge_of([]) as edge:
            connection = await edge.connect()
            start = 0
            for cut in cuts:
                await connection.send(data[start : start + cut])
                start += cut
                await asyncio.sleep(0)
            await connection.send(data[start:])
            return [await connection.receive() for _ in range(4)]

    one, two, three, four = asyncio.run(answers())
    assert (one.json["limit"], four.json["limit"]) == (1, 2)
    assert two.json == three.json == {**two.json, "typing": True}


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: +3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : t\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: t\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: t\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/3.1\r\nHost: t\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: t\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_what_two_servers_could_read_in_two_ways_is_refused(edge: Edge, sent: bytes) -> None:
    connection = await edge.connect()
    await connection.send(get(1) + sent + get(2))
    assert (await connection.receive()).json["limit"] == 1
    await is_refused(connection, 400)


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\nX: ",
        b"GET / HTTP/1.1\r\n",
        put(b"1;x=", "Transfer-Encoding: chunked"),
        put(b"0\r\nX: ", "Transfer-Encoding: chunked"),
        put(b"0\r\n", "Transfer-Encoding: chunked"),
    ],
)
async def test_what_has_no_end_is_given_up(edge: Edge, start: bytes) -> None:
    connection = await edge.connect()
    await connection.send(start)
    fields = start.endswith(b"\r\n")
    most = 100 * of_connections.MAX_HEAD
    sent = await pours(connection, b"Y: z\r\n" * 1000 if fields else b"y" * 6000, most)
    assert sent < most


async def test_a_url_may_be_long_but_not_too_long(edge: Edge) -> None:
    connection = await edge.connect()
    most = of_connections.MAX_LINE
    long = f"{V3}/list?from=".encode()
    await connection.send(b"GET " + long + b"x" * (most - len(long)) + b" HTTP/1.1\r\n\r\n")
    assert (await connection.receive()).status == 200
    await connection.send(b"GET " + long + b"x" * most + b" HTTP/1.1\r\n\r\n")
    await is_refused(connection, 414)


@pytest.mark.parametrize(
    "headers",
    [b"X: " + b"y" * of_connections.MAX_FIELD, b"\r\n".join([b"X: y"] * 200)],
)
async def test_headers_that_are_long_or_many_are_refused(edge: Edge, headers: bytes) -> None:
    connection = await edge.connect()
    await connection.send(b"GET / HTTP/1.1\r\nA: b\r\n" + headers + b"z\r\n\r\n")
    await is_refused(connection, 431)


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_an_offer_to_leave_http_1_is_not_taken(
    edge: Edge, protocol: str, chunked: bool
) -> None:
    connection = await edge.connect()
    more = ["Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}", "HTTP2-Settings: AAMA"]
    if chunked:
        more.append("Transfer-Encoding: chunked")
    body = b"f\r\n" + BODY + b"\r\n0\r\n\r\n" if chunked else BODY
    sent = put(body, *more) + get(5).replace(
        b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    )
    for cut in (len(sent), len(sent) - 3, sent.index(b"\r\n\r\n") + 4, sent.index(b"\r\n\r\n") + 8):
        await connection.send(sent[:cut])
        await asyncio.sleep(0.01)
        await connection.send(sent[cut:])
        assert (await connection.receive()).json["typing"] is True
        assert (await connection.receive()).json["limit"] == 5
    await goes_on(connection)


async def test_nobody_gets_a_tunnel(edge: Edge) -> None:
    connection = await edge.connect()
    await connection.send(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n" + get(1))
    answer = await connection.receive()
    assert answer.status in {404, 405}
    assert await asyncio.wait_for(connection.at_end(), 30)


async def test_a_body_that_nobody_wants_is_passed_over(edge: Edge) -> None:
    connection = await edge.connect()
    sent = put(b'{"typing":' + b" " * 40_000 + b"true}").replace(b"Bearer alice", b"Basic abcdef")
    await connection.send(sent[:500])
    assert (await connection.receive()).errcode == "M_MISSING_TOKEN"
    for start in range(500, len(sent), 7_000):
        await connection.send(sent[start : start + 7_000])
        await asyncio.sleep(0.01)
    await goes_on(connection)


async def test_a_body_that_nobody_wants_has_to_come_soon(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_connections, "LINGER_SECONDS", 0.02)
    connection = await edge.connect()
    await connection.send(put(target="/nowhere")[:-3])
    assert (await connection.receive()).status == 404
    assert await asyncio.wait_for(connection.at_end(), 30)


async def test_a_client_that_may_not_send_its_body_has_no_second_request(edge: Edge) -> None:
    """Nobody could tell a body that comes nevertheless from what follows it."""
    connection = await edge.connect()
    await connection.send(
        put(b"", "Expect: 100-continue", target="/nowhere").replace(b": 0", b": 9")
    )
    assert (await connection.receive()).headers["connection"] == "close"
    assert await asyncio.wait_for(connection.at_end(), 30)


async def test_a_body_that_breaks_off_in_the_middle_is_no_body(edge: Edge) -> None:
    connection = await edge.connect()
    await connection.send(put(b'8\r\n{"typing\r\n', "Transfer-Encoding: chunked"))
    await connection.send(b"no length\r\n")
    await is_refused(connection, 400)


async def test_after_close_nothing_is_taken(edge: Edge) -> None:
    connection = await edge.connect()
    closing = get(1).replace(b"Host: t", b"Connection: close")
    await connection.send(closing + get(2) + b"\x16\x03\x01")
    assert (await connection.receive()).json["limit"] == 1
    assert await connection.at_end()


async def test_a_reply_that_nobody_takes_holds_nothing_for_ever(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "SILENT_SECONDS", 0)
    connection = await edge.connect()
    size = 30_000_000
    await connection.send(f"GET {V3}/big/{size} HTTP/1.1\r\nHost: t\r\n\r\n".encode())
    with pytest.raises((ConnectionError, EOFError)):
        await connection.reader.readexactly(size)


async def test_what_waits_behind_a_long_request_is_not_read_on_and_on(edge: Edge) -> None:
    connection = await edge.connect()
    await connection.send(f"GET {V3}/soon HTTP/1.1\r\nHost: t\r\n\r\n".encode())
    await endpoints.waiting.wait()
    connection.writer.write(get(3) * 1_000_000)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(connection.writer.drain(), 1)
    endpoints.cancelled.set()
    assert (await connection.receive()).status == 200
    assert (await connection.receive()).json["limit"] == 3
    connection.writer.transport.abort()


async def test_a_client_that_leaves_in_the_middle_of_a_body_is_forgotten(edge: Edge) -> None:
    connection = await edge.connect()
    await connection.send(put()[:-3])
    await asyncio.sleep(0.05)
    connection.writer.transport.abort()
    await goes_on(await edge.connect())


async def test_nothing_is_worked_on_once_the_server_has_stopped(edge: Edge) -> None:
    """Not even for clients that have gone: what their requests hold is let go before."""
    connection = await edge.connect()
    await connection.send(f"GET {V3}/tidy HTTP/1.1\r\nHost: t\r\n\r\n".encode())
    await endpoints.waiting.wait()
    connection.writer.transport.abort()
    await goes_on(await edge.connect())
    await edge.server.stop()
    assert endpoints.cancelled.is_set()


async def hoard(edge: Edge) -> Connection:
    """A connection on which far more is asked for than its client ever takes."""
    host, _, port = edge.server.addresses[0].rpartition("//")[2].rpartition(":")
    taking = socket.socket()
    taking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    taking.setblocking(False)
    await asyncio.get_running_loop().sock_connect(taking, (host, int(port)))
    connection = Connection(*await asyncio.open_connection(sock=taking))
    edge.connections.append(connection)
    connection.writer.write(f"GET {V3}/big/4000 HTTP/1.1\r\nHost: t\r\n\r\n".encode() * 5_000)
    return connection


async def test_no_more_is_answered_than_the_client_takes(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, send = 0, wire.Reply.send

    async def counted(reply: wire.Reply, request: of_connections.RawRequest) -> None:
        nonlocal sent
        sent += 1
        await send(reply, request)

    monkeypatch.setattr(wire.Reply, "send", counted)
    connection = await hoard(edge)
    before = -1
    while before != sent:
        before = sent
        await asyncio.sleep(0.3)
    assert 0 < sent < 4_500
    for _ in range(5_000):
        assert (await connection.receive()).status == 200
    await goes_on(connection)


async def test_a_client_that_takes_nothing_is_closed_when_its_time_is_over(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_connections, "IDLE_SECONDS", 0.1)
    connection = await hoard(edge)
    with pytest.raises((ConnectionError, EOFError)):
        await asyncio.wait_for(broken(connection), 60)


async def broken(connection: Connection) -> None:
    """Wait without reading until the connection is found to be broken by writing to it."""
    while True:
        await asyncio.sleep(0.1)
        connection.writer.write(b"GET / HTTP/1.1\r\n\r\n")
        if connection.writer.transport.is_closing():
            raise ConnectionResetError
