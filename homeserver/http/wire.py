"""The bytes of a reply.

Owns status line, headers and compression. A reply is one head and one body, written at once: this
takes a third of what the library's general response object costs. Every reply, errors included,
carries the headers for browsers. A reply that is too long for that follows its head in pieces.
spec: client-server-api#web-browser-clients
"""

import asyncio
import logging
import time
import zlib
from collections.abc import AsyncGenerator, Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from homeserver.http.connection import RawRequest
from homeserver.http.shape import Streamed

log = logging.getLogger(__name__)

SILENT_SECONDS = 30.0
"""How long a client may take nothing of a reply that is sent in pieces."""
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


class Reply:
    """A whole reply that writes itself in one go: its status is `code`, its body `content`."""

    def __init__(
        self,
        status: int,
        body: bytes,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        close: bool = False,
    ) -> None:
        self.code = status
        self.content = body
        self._kind = content_type
        self._more = headers
        self._closes = close

    async def compress(self, request: RawRequest) -> None:
        """Shrink a long body for a client that accepts it."""
        if "gzip" not in (request.header("accept-encoding") or "").lower():
            return
        if len(self.content) <= COMPRESS_INLINE_TO:
            self.content = _gzip(self.content)
        else:
            self.content = await asyncio.to_thread(_gzip, self.content)
        self._more = {**(self._more or {}), "Content-Encoding": "gzip", "Vary": "Accept-Encoding"}

    async def send(self, request: RawRequest) -> None:
        """Answer a request; raises ConnectionError when the client has gone or takes nothing."""
        body = self.content
        length = None if self.code in {204, 304} else len(body)
        head = self._head(request, length)
        if request.method == "HEAD":
            body = b""
        request.write(b"%b\r\n%b" % (head, body))
        if len(body) > COMPRESS_FROM:
            await _taken(request)

    def _head(self, request: RawRequest, length: int | None) -> bytes:
        """The head but for its last line; it says whether the connection stays."""
        status = self.code
        request.stays = request.keep_alive and not self._closes and not request.is_astray
        if status == 200 and self._kind == "application/json":
            usual = request.stays and not self._more and request.minor == 1
            if usual and length is not None:
                return b"%bContent-Length: %d\r\n" % (_json_head(int(time.time())), length)
            head = _JSON_OK
        else:
            head = _head(status, self._kind)
        lines = _date(int(time.time()))
        if not request.stays:
            lines += "Connection: close\r\n"
        elif request.minor == 0:
            lines += "Connection: keep-alive\r\n"
        if self._more:
            for name, value in self._more.items():
                lines += f"{name}: {_safe(value)}\r\n"
        if length is not None:
            lines += f"Content-Length: {length}\r\n"
        return head + lines.encode("latin-1")


class StreamedReply(Reply):
    """A reply whose body follows piece by piece."""

    def __init__(self, streamed: Streamed, first: bytes | None) -> None:
        super().__init__(streamed.status, b"", streamed.content_type, streamed.headers)
        self._first: bytes | None = first
        self._chunks = streamed.chunks
        self._length = streamed.length

    @classmethod
    async def begun(cls, streamed: Streamed) -> "StreamedReply":
        """The reply once its first piece is there; raises what keeps that from coming."""
        return cls(streamed, await anext(streamed.chunks, None))

    async def send(self, request: RawRequest) -> None:
        try:
            # Before version 1.1 the end of the connection is the end of what has no length.
            framed = self._length is None and request.minor > 0
            if self._length is None and not framed:
                self._closes = True
            head = self._head(request, self._length)
            if framed:
                head += b"Transfer-Encoding: chunked\r\n"
            if request.method == "HEAD":
                request.write(head + b"\r\n")
            else:
                await self._pass_on(request, head + b"\r\n", framed=framed)
        finally:
            if isinstance(self._chunks, AsyncGenerator):
                await self._chunks.aclose()

    async def _pass_on(self, request: RawRequest, head: bytes, *, framed: bool) -> None:
        piece, sent = self._first, 0
        self._first = None
        try:
            if not piece:
                request.write(head)
                head = b""
            while piece is not None:
                sent += len(piece)
                written = b"%x\r\n%b\r\n" % (len(piece), piece) if framed and piece else piece
                request.write(head + written if head else written)
                head = written = b""
                await _taken(request)
                piece = await anext(self._chunks, None)
            if self._length not in {None, sent}:
                raise ConnectionResetError("the reply is shorter or longer than it says")
        except Exception as error:
            # What was promised can't be kept: the client must not take it for whole.
            if not isinstance(error, ConnectionError):
                log.warning("a reply broke off", exc_info=error)
            raise ConnectionResetError("the reply broke off") from None
        if framed:
            request.write(b"0\r\n\r\n")


async def _taken(request: RawRequest) -> None:
    """Wait until the client has taken most of what was sent."""
    try:
        async with asyncio.timeout(SILENT_SECONDS):
            await request.drain()
    except TimeoutError:
        raise ConnectionResetError("the client takes nothing") from None


def preflight() -> Reply:
    """The answer to OPTIONS, on any path and without any logic."""
    return Reply(204, b"", "", {"Access-Control-Max-Age": "86400"})


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return f"Date: {formatdate(second, usegmt=True)}\r\n"


@lru_cache(maxsize=1)
def _json_head(second: int) -> bytes:
    return _JSON_OK + _date(second).encode()


def _gzip(body: bytes) -> bytes:
    return zlib.compress(body, 1, wbits=31)


def _safe(value: str) -> str:
    """A header's value can't begin a second header."""
    if "\r" in value or "\n" in value or "\0" in value:
        raise ValueError("a header holds a line break")
    return value
