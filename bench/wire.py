"""HTTP/1.1 over keep-alive connections, as little of it as a homeserver's replies need.

The client program shares two processor cores with the server that it measures, so it must cost
little: a request is one write of ready bytes, a reply is cut out of the buffer by Content-Length or
chunks. That is a fraction of the CPU time of a general HTTP client. No TLS, redirects, cookies or
compression.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple, cast


class Reply(NamedTuple):
    """Status and body of one reply."""

    status: int
    body: bytes


class Lost(ConnectionError):
    """The connection ended, or never came about, before the reply was complete."""


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._waiter: asyncio.Future[Reply] | None = None
        self._transport: asyncio.Transport | None = None
        self.reusable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(Lost("connection lost"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._waiter is None or self._waiter.done():
            self.reusable = False
            return
        reply = self._complete()
        if reply is not None:
            self._waiter.set_result(reply)

    async def exchange(self, request: bytes) -> Reply:
        """Send the bytes and wait for the whole reply."""
        assert self._transport is not None
        if not self.reusable:
            raise Lost("connection lost")
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._waiter
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._waiter = None

    def close(self) -> None:
        """End the connection at once; nothing is left to wait for."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def _complete(self) -> Reply | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self._buffer[:end]).lower()
        if b"\r\nconnection: close" in head:
            self.reusable = False
        if b"\r\ntransfer-encoding: chunked" in head:
            body, used = self._chunks(end + 4)
        else:
            mark = head.find(b"\r\ncontent-length:")
            length = int(head[mark + 17 :].split(b"\r\n", 1)[0]) if mark >= 0 else 0
            used = end + 4 + length
            body = bytes(self._buffer[end + 4 : used]) if len(self._buffer) >= used else None
        if body is None:
            return None
        del self._buffer[:used]
        return Reply(int(head[9:12]), body)

    def _chunks(self, start: int) -> tuple[bytes | None, int]:
        parts: list[bytes] = []
        while True:
            line = self._buffer.find(b"\r\n", start)
            if line < 0:
                return None, 0
            size = int(self._buffer[start:line].split(b";")[0], 16)
            start = line + 2 + size + 2
            if len(self._buffer) < start:
                return None, 0
            if not size:
                return b"".join(parts), start
            parts.append(bytes(self._buffer[line + 2 : line + 2 + size]))


class Wire:
    """The connections of one client to one server; a free one is taken, or a new one opened."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._free: list[_Connection] = []

    async def request(
        self,
        method: str,
        target: str,
        *,
        headers: Sequence[str] = (),
        body: bytes | None = None,
        content_type: str = "application/json",
    ) -> Reply:
        """One request by its raw target; Lost when no complete reply comes back.

        Whether the server has done the work is unknown then: who may repeat the request decides.
        """
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._host}:{self._port}", *headers]
        if body is not None:
            lines.append(f"Content-Type: {content_type}\r\nContent-Length: {len(body)}")
        request = "\r\n".join([*lines, "", ""]).encode() + (body or b"")
        connection = await self._connection()
        reply = await connection.exchange(request)
        if connection.reusable:
            self._free.append(connection)
        else:
            connection.close()
        return reply

    def close(self) -> None:
        """Close the connections that are not in use."""
        while self._free:
            self._free.pop().close()

    async def _connection(self) -> _Connection:
        while self._free:
            connection = self._free.pop()
            if connection.reusable:
                return connection
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(_Connection, self._host, self._port)
        except OSError as error:
            raise Lost(str(error)) from error
        return connection
