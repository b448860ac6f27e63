"""The benchmark's own HTTP client reads replies however they are cut, and says when one is lost."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from bench.client import Refused, insist
from bench.wire import Lost, Reply, Wire

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;name=value\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n"
)
SIZED = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nX: y\r\n\r\n{}"


@contextlib.asynccontextmanager
async def _serving(pieces: Callable[[int], Sequence[bytes]]) -> AsyncIterator[Wire]:
    """A server that answers its n-th request by these pieces, and ends where there are none."""
    requests = 0
    answering: list[asyncio.Task[None]] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.append(asyncio.create_task(answer(reader, writer)))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        while True:
            try:
                await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            requests += 1
            cut = pieces(requests)
            for piece in cut:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if not cut or not cut[-1]:
                break
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    wire = Wire("127.0.0.1", server.sockets[0].getsockname()[1])
    try:
        yield wire
    finally:
        wire.close()
        await asyncio.gather(*answering)
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_replies_are_whole_however_they_are_cut(size: int) -> None:
    def pieces(request: int) -> Sequence[bytes]:
        whole = CHUNKED if request % 2 else SIZED
        return [whole[start : start + size] for start in range(0, len(whole), size)]

    async with _serving(pieces) as wire:
        for _ in range(2):
            assert await wire.request("GET", "/") == Reply(200, b"hello, world")
            assert await wire.request("GET", "/") == Reply(404, b"{}")


async def test_a_connection_that_ends_within_a_reply_is_lost() -> None:
    async with _serving(lambda _request: [SIZED[:30], b""]) as wire:
        with pytest.raises(Lost):
            await wire.request("GET", "/")


async def test_insisting_repeats_what_was_lost_but_not_what_was_refused() -> None:
    async with _serving(lambda request: [CHUNKED] if request == 3 else []) as wire:
        reply = await insist(lambda: wire.request("GET", "/"), pause=0)
        assert reply.body == b"hello, world"

    attempts = 0

    async def refused() -> None:
        nonlocal attempts
        attempts += 1
        raise Refused("GET", "/", Reply(403, b'{"errcode":"M_FORBIDDEN","error":"no"}'))

    with pytest.raises(Refused) as caught:
        await insist(refused, pause=0)
    assert (attempts, caught.value.errcode) == (1, "M_FORBIDDEN")
