"""Reading multipart/mixed while it comes.

Owns the splitting of a stream into parts. Invariant: besides the piece at hand no more than a
part's head is in memory, however the sender cuts what it sends. spec:
server-server-api#content-repository
"""

from collections.abc import AsyncIterator, Mapping
from email.message import Message

from homeserver.matrix.errors import Malformed

MAX_HEAD = 16_384


def boundary_of(content_type: str) -> str | None:
    """The boundary of a multipart/mixed Content-Type; None for any other type."""
    kind = _header("Content-Type", content_type)
    found = kind.get_param("boundary")
    if kind.get_content_type() != "multipart/mixed" or not isinstance(found, str):
        return None
    return found if found.isascii() and 0 < len(found) <= 200 else None


def filename_of(disposition: str | None) -> str | None:
    """The name that a Content-Disposition gives a file."""
    if not disposition:
        return None
    return _header("Content-Disposition", disposition).get_filename()


class Parts:
    """The parts of a stream, one after the other: `head` begins a part, `body` is its content."""

    def __init__(self, chunks: AsyncIterator[bytes], boundary: str) -> None:
        self._chunks = chunks
        self._between = b"\r\n--" + boundary.encode()
        # The first boundary need not follow a line.
        self._held = bytearray(b"\r\n")

    async def head(self) -> Mapping[str, str]:
        """The headers of the next part, names in lower case; raises Malformed when none comes."""
        async for _ in self.body():
            pass
        del self._held[: len(self._between)]
        while len(self._held) < 2:
            await self._more()
        if self._held.startswith(b"--"):
            raise Malformed("a part is missing")
        while (end := self._held.find(b"\r\n\r\n")) < 0:
            if len(self._held) > MAX_HEAD:
                raise Malformed("the head of a part is too long")
            await self._more()
        lines = self._held[:end].decode("utf-8", "replace").split("\r\n")
        del self._held[: end + 4]
        fields = (line.partition(":") for line in lines if ":" in line)
        return {name.strip().lower(): value.strip() for name, _, value in fields}

    async def body(self) -> AsyncIterator[bytes]:
        """What is left of the part, in pieces; raises Malformed when the stream ends in it."""
        while (end := self._held.find(self._between)) < 0:
            safe = len(self._held) - len(self._between)
            if safe > 0:
                piece = bytes(self._held[:safe])
                del self._held[:safe]
                yield piece
            await self._more()
        if end:
            piece = bytes(self._held[:end])
            del self._held[:end]
            yield piece

    async def _more(self) -> None:
        try:
            self._held += await anext(self._chunks)
        except StopAsyncIteration:
            raise Malformed("it ends within a part") from None


def _header(name: str, value: str) -> Message:
    message = Message()
    message[name] = value.replace("\r", " ").replace("\n", " ")
    return message
