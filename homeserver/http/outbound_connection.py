"""One connection to a server that is asked something: a request, its answer, then the next.

Owns what one connection holds. Invariants: it is used again only after an answer that is whole, and
behind which nothing came, to a request that was taken whole; whatever is sent, it keeps no more
than `MAX_HEAD` bytes that are no body, `BUFFERED` of a body that nobody reads, and one read of
either. The grammar is the parser's matter. It knows neither addresses nor what is asked, except
that it is no HEAD, whose answers tell the length of a body that does not come. spec: RFC 9112
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

from httptools import HttpParserError, HttpResponseParser

SILENT_SECONDS = 30.0
"""How long an answer that has begun may say nothing, up to twice that."""
MAX_FIELD = 16_384
"""Bytes of one header's value."""
MAX_FIELDS = 128
MAX_HEAD = 65_536
"""Bytes that may come without any of them being a body's: heads, or what is around chunks."""
BUFFERED = 65_536
"""Bytes of a body that wait for being taken, from which nothing more is read."""


class OutboundFailed(Exception):
    """There is no answer that could be used; the text says why, without naming the host."""


class Unanswered(OutboundFailed):
    """The connection was closed before any byte of an answer."""


class Headers(Mapping[str, str]):
    """The headers of an answer, whatever the case of their names; those of one name together.

    The names of the `fields` are in lower case.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: Sequence[tuple[bytes, bytes]]) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> str:
        found = self.each(name)
        if not found:
            raise KeyError(name)
        return ", ".join(found)

    def each(self, name: str) -> list[str]:
        """What stands under a name, one by one."""
        wanted = name.lower().encode()
        return [
            value.strip().decode("utf-8", "surrogateescape")
            for given, value in self._fields
            if given == wanted
        ]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name.decode() for name, _ in self._fields))

    def __len__(self) -> int:
        return sum(1 for _ in self)


_NONE = Headers(())


class Reply:
    """What comes for one request; `status` is 0 until its head has come.

    `length` is how many bytes the body is announced to have, None where that is left open;
    `coding` how it is compressed, in lower case, nothing where it is not. When it `is_over`,
    nothing more comes, whether it `is_whole` or not.
    """

    __slots__ = (
        "_connection",
        "_failure",
        "_parts",
        "_waiter",
        "coding",
        "headers",
        "is_over",
        "is_whole",
        "length",
        "size",
        "status",
    )

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._failure: OutboundFailed | None = None
        self._parts: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self.coding = b""
        self.headers = _NONE
        self.is_over = False
        self.is_whole = False
        self.length: int | None = None
        self.size = 0
        self.status = 0

    async def begun(self) -> None:
        """Wait for the head; raises OutboundFailed."""
        while not self.status:
            await self._changed()

    async def more(self) -> bytes:
        """The next piece of the body, nothing at its end; raises OutboundFailed."""
        while not (self._parts or self.is_whole):
            await self._changed()
        parts, self._parts, self.size = self._parts, [], 0
        self._connection.settle(self)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def begins(self, status: int, headers: Headers, length: int | None, coding: bytes) -> None:
        """The head has come."""
        self.status = status
        self.headers = headers
        self.length = length
        self.coding = coding
        self._wake()

    def came(self, part: bytes) -> None:
        """Take in a piece of the body."""
        self._parts.append(part)
        self.size += len(part)
        self._wake()

    def ends(self, failure: OutboundFailed | None = None) -> None:
        """The body is whole, or nothing more comes of it."""
        if not self.is_over:
            self.is_over = True
            self.is_whole = failure is None
            self._failure = failure
            self._wake()

    def _changed(self) -> asyncio.Future[None]:
        """The next change, to be awaited by one; raises OutboundFailed when none will come."""
        if self._failure is not None:
            raise self._failure
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connection(asyncio.Protocol):
    """See the module. `asked` counts the requests; `lost(self)` is called when it is closed."""

    __slots__ = (
        "_count",
        "_deadline",
        "_fields",
        "_has_heard",
        "_is_open_ended",
        "_is_paused",
        "_looks_at",
        "_lost",
        "_parser",
        "_quiet",
        "_reply",
        "_stays",
        "_timer",
        "_transport",
        "_unanswered",
        "asked",
    )

    def __init__(self, lost: "Callable[[Connection], object]") -> None:
        self._count = 0
        self._deadline = 0.0
        self._fields: list[tuple[bytes, bytes]] = []
        self._has_heard = False
        self._is_open_ended = False
        self._is_paused = False
        self._looks_at = 0.0
        self._lost = lost
        self._parser = HttpResponseParser(self)
        self._quiet = 0
        self._reply: Reply | None = None
        self._stays = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._unanswered = False
        self.asked = 0

    @property
    def is_open(self) -> bool:
        """Whether the connection can still carry something."""
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, request: bytes, deadline: float) -> Reply:
        """Send a whole request; its answer has to be whole by then, in the loop's time."""
        reply = self._reply = Reply(self)
        self.asked += 1
        self._count = self._quiet = 0
        self._stays = self._is_open_ended = self._has_heard = False
        self._unanswered = True
        self._deadline = deadline
        if self._transport is None or self._transport.is_closing():
            self._breaks_off()
            return reply
        self._transport.write(request)
        if self._timer is None or deadline < self._looks_at:
            self._plan()
        return reply

    def leave(self) -> bool:
        """Have done with the answer, read or not; whether another request may be sent."""
        reply, self._reply = self._reply, None
        transport = self._transport
        if reply is None:
            return False
        reply.ends(OutboundFailed("the answer was given up"))
        if transport is None or transport.is_closing():
            return False
        if not (reply.is_whole and self._stays) or transport.get_write_buffer_size():
            transport.abort()
            return False
        return True

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def give_up(self, reason: str) -> None:
        """Close at once, and tell who waits for an answer why there is none."""
        if self._reply is not None:
            self._reply.ends(OutboundFailed(reason))
        self.abort()

    def settle(self, reply: Reply) -> None:
        """Read on, or stop reading, as there is room for what comes of this answer."""
        transport = self._transport
        is_full = reply.size > BUFFERED and not reply.is_over
        if reply is not self._reply or is_full is self._is_paused or transport is None:
            return
        if transport.is_closing():
            return
        self._is_paused = is_full
        if is_full:
            transport.pause_reading()
        else:
            transport.resume_reading()

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        reply = self._reply
        if reply is None or reply.is_over:
            self.abort()  # Nobody has asked for it.
            return
        self._has_heard = True
        self._unanswered = False
        self._quiet += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            cause = error.__context__
            words = str(cause) if isinstance(cause, OutboundFailed) else "it is not proper HTTP"
            self.give_up(f"the answer can't be understood: {words}")
            return
        if self._quiet > MAX_HEAD:
            self.give_up(f"the answer can't be understood: {_TOO_MUCH}")
            return
        self.settle(reply)

    def eof_received(self) -> None:
        self._breaks_off()

    def connection_lost(self, exc: Exception | None) -> None:
        self._breaks_off(exc)
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._lost(self)

    # What the parser finds.

    def on_message_begin(self) -> None:
        self._fields = []
        if self._reply is None or self._reply.is_over:
            raise OutboundFailed("more follows it")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count += 1
        if len(value) > MAX_FIELD or self._count > MAX_FIELDS:
            raise OutboundFailed(_TOO_MUCH)
        self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            if status < 100 or status == 101:
                raise OutboundFailed("its status is none that was asked for")
            return  # Another answer follows.
        length, codings, compressed = None, [], []
        for name, value in self._fields:
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                codings.append(value.strip().lower())
            elif name == b"content-encoding":
                compressed.append(value.strip().lower())
        if codings not in ([], [b"chunked"]):
            raise OutboundFailed("it comes in an encoding that nobody asked for")
        self._quiet = 0
        self._stays = self._parser.should_keep_alive()
        self._is_open_ended = length is None and not codings
        assert self._reply is not None
        self._reply.begins(status, Headers(self._fields), length, b", ".join(compressed))

    def on_body(self, part: bytes) -> None:
        self._quiet = 0
        assert self._reply is not None
        self._reply.came(part)

    def on_message_complete(self) -> None:
        if self._reply is not None and self._reply.status:
            self._reply.ends()

    # Its end.

    def _breaks_off(self, error: Exception | None = None) -> None:
        """Nothing more comes."""
        reply = self._reply
        if reply is None or reply.is_over:
            return
        if self._is_open_ended and error is None:
            reply.ends()
        elif self._unanswered:
            reply.ends(Unanswered("the connection was closed without an answer"))
        else:
            words = str(error) if error is not None else "the connection was closed"
            reply.ends(OutboundFailed(f"the answer broke off: {words}"))

    def _plan(self) -> None:
        """Look at the answer at its deadline, or before to see whether it still comes.

        The timer outlives the answer: what is asked next mostly needs no other.
        """
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._looks_at = min(loop.time() + SILENT_SECONDS, self._deadline)
        self._timer = loop.call_at(self._looks_at, self._look)

    def _look(self) -> None:
        """See whether the answer still comes."""
        self._timer = None
        reply = self._reply
        if reply is None or reply.is_over:
            return
        if asyncio.get_running_loop().time() >= self._deadline:
            self.give_up("no answer in time")
        elif reply.status and not self._has_heard and not self._is_paused:
            self.give_up("the answer broke off: nothing more comes")
        else:
            self._has_heard = self._is_paused  # That silence was ours.
            self._plan()


_TOO_MUCH = "its headers are too long or too many"
