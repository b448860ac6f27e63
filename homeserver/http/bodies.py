"""The bytes of a request's body, whole or piece by piece.

Owns the bounds on what is read: bytes in all, and how long a sender may be silent. Invariant: no
more than the cap and one piece is ever in memory, whatever the sender announces. What the bytes
mean is not its business.
"""

import asyncio
from collections.abc import AsyncGenerator

from homeserver.errors import MatrixError
from homeserver.http.connection import BrokenBody, RawRequest

BODY_SECONDS = 60.0
"""A body that has not come whole by then is given up, so slow senders hold nothing for ever."""
SILENT_SECONDS = 30.0
"""How long the sender of a body that is taken piece by piece may send nothing."""
STREAM_SECONDS = 3_600.0
"""The longest that such a body may take in all."""


class CloseAfter(MatrixError):
    """An error after which the rest of the connection can't be understood or is not wanted."""


class Incoming:
    """A body that its endpoint takes as it comes: declare `body: Incoming`.

    `length` is what was announced, None when nothing was; `content_type` is the header's text, None
    without one.
    """

    __slots__ = ("_raw", "content_type", "length")

    def __init__(self, raw: RawRequest) -> None:
        self._raw = raw
        self.length = raw.length
        self.content_type = raw.header("content-type")

    async def chunks(self, most: int) -> AsyncGenerator[bytes, None]:
        """The body in pieces as they come, at most `most` bytes in all.

        Raises MatrixError: M_TOO_LARGE (413), or M_UNKNOWN when it breaks off or does not come.
        """
        raw = self._raw
        if (self.length or 0) > most:
            raise _too_large(most)
        _continue(raw)
        size = 0
        end = asyncio.get_running_loop().time() + STREAM_SECONDS
        try:
            while True:
                piece = raw.take()
                if not piece:
                    async with asyncio.timeout(SILENT_SECONDS):
                        piece = await raw.more()
                if not piece:
                    return
                size += len(piece)
                if size > most:
                    raise _too_large(most)
                if asyncio.get_running_loop().time() > end:
                    raise TimeoutError
                # Nothing more is taken in while this is dealt with: of many bodies that come at
                # once, one piece each is in memory.
                raw.hold(True)
                try:
                    yield piece
                finally:
                    raw.hold(False)
        except TimeoutError:
            raise _late() from None
        except BrokenBody:
            raise _broken() from None


async def whole(raw: RawRequest, cap: int) -> bytes:
    """The whole body, at most `cap` bytes of it; raises MatrixError."""
    if raw.is_whole:
        data = raw.take()
        if len(data) > cap:
            raise _too_large(cap)
        return data
    if (raw.length or 0) > cap:
        raise _too_large(cap)
    _continue(raw)
    parts = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while part := await raw.more():
                size += len(part)
                if size > cap:
                    raise _too_large(cap)
                parts.append(part)
        return b"".join(parts)
    except TimeoutError:
        raise _late() from None
    except BrokenBody:
        raise _broken() from None


def _continue(raw: RawRequest) -> None:
    """Tell a sender that waits for it that the body may come."""
    if (raw.header("expect") or "").lower() == "100-continue":
        raw.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _too_large(cap: int) -> MatrixError:
    return CloseAfter("M_TOO_LARGE", f"The body is longer than {cap} bytes", 413)


def _late() -> MatrixError:
    return CloseAfter("M_UNKNOWN", "The body did not come in time", 408)


def _broken() -> MatrixError:
    return CloseAfter("M_UNKNOWN", "The body could not be read", 400)
