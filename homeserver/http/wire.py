"""The bytes of a reply.

Owns status line, headers and compression. A reply is one head and one body, written at once: this
takes a third of what the library's general response object costs. Every reply, errors included,
carries the headers for browsers. Replies that come piece by piece are written as they come.
spec: client-server-api#web-browser-clients
"""

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

COMPRESS_FROM = 4_096
"""Bytes of body from which compression pays."""
COMPRESS_INLINE_TO = 32_768
"""Longer bodies are compressed in a thread, since this would hold the loop."""

_CORS = (
    "Access-Control-Allow-Origin: *\r\n"
    "Access-Control-Allow-Methods: GET, HEAD, POST, PUT, DELETE, OPTIONS\r\n"
    "Access-Control-Allow-Headers: X-Requested-With, Content-Type, Authorization\r\n"
    "Access-Control-Expose-Headers: Retry-After\r\n"
)
_REASONS = {status.value: status.phrase for status in HTTPStatus}


def _head(status: int, content_type: str) -> bytes:
    reason = _REASONS.get(status, "Unknown")
    kind = f"Content-Type: {content_type}\r\n" if content_type else ""
    return f"HTTP/1.1 {status} {reason}\r\n{kind}{_CORS}".encode()


_JSON_OK = _head(200, "application/json")


class Reply(web.StreamResponse):
    """A whole reply that writes itself in one go.

    It has only the part of the library's interface that its protocol uses: `prepare`, `write_eof`,
    `keep_alive` and `status`.
    """

    def __init__(
        self,
        status: int,
        body: bytes,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        close: bool = False,
    ) -> None:
        # The parent's state is for building headers piece by piece, which never happens here.
        self.code = status
        self.content = body
        self._kind = content_type
        self._more = headers
        self._closes = close
        self._stays = False

    @property
    def status(self) -> int:
        return self.code

    @property
    def keep_alive(self) -> bool | None:
        return self._stays

    async def compress(self, request: web.BaseRequest) -> None:
        """Shrink a long body for a client that accepts it."""
        if "gzip" not in request.headers.get("Accept-Encoding", "").lower():
            return
        if len(self.content) <= COMPRESS_INLINE_TO:
            self.content = _gzip(self.content)
        else:
            self.content = await asyncio.to_thread(_gzip, self.content)
        self._more = {**(self._more or {}), "Content-Encoding": "gzip", "Vary": "Accept-Encoding"}

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        status = self.code
        body = self.content
        if status == 200 and self._kind == "application/json":
            head = _JSON_OK
        else:
            head = _head(status, self._kind)
        self._stays = request.keep_alive and not self._closes
        lines = _date(int(time.time()))
        if not self._stays:
            lines += "Connection: close\r\n"
        elif request.version.minor == 0:
            lines += "Connection: keep-alive\r\n"
        if self._more:
            for name, value in self._more.items():
                lines += f"{name}: {_safe(value)}\r\n"
        if status not in {204, 304}:
            lines += f"Content-Length: {len(body)}\r\n"
        if request.method == "HEAD":
            body = b""
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        transport.write(b"%b%b\r\n%b" % (head, lines.encode("latin-1"), body))
        # The library keeps the last reply of a connection for as long as the next request waits.
        self.content = b""
        if len(body) > COMPRESS_FROM:
            await request.writer.drain()
        return None

    async def write_eof(self, data: Any = b"") -> None:
        """Everything was written by `prepare`."""


class StreamedReply(Reply):
    """A reply whose length nobody knows yet, in chunks."""

    def __init__(self, chunks: AsyncIterator[bytes], content_type: str) -> None:
        super().__init__(200, b"", content_type)
        self._chunks = chunks

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        chunked = request.version.minor > 0
        self._stays = chunked and request.keep_alive is not False
        lines = _date(int(time.time()))
        lines += "Transfer-Encoding: chunked\r\n" if chunked else "Connection: close\r\n"
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        transport.write(b"%b%b\r\n" % (_head(200, self._kind), lines.encode("latin-1")))
        try:
            async for chunk in self._chunks:
                if chunk and request.method != "HEAD":
                    transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
                    await request.writer.drain()
        except BaseException:
            transport.abort()
            raise
        if chunked and request.method != "HEAD":
            transport.write(b"0\r\n\r\n")
        return None


def preflight() -> Reply:
    """The answer to OPTIONS, on any path and without any logic."""
    return Reply(204, b"", "", {"Access-Control-Max-Age": "86400"})


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return f"Date: {formatdate(second, usegmt=True)}\r\n"


def _gzip(body: bytes) -> bytes:
    return zlib.compress(body, 1, wbits=31)


def _safe(value: str) -> str:
    """A header's value can't begin a second header."""
    if "\r" in value or "\n" in value or "\0" in value:
        raise ValueError("a header holds a line break")
    return value
