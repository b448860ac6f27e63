"""Connections of HTTP/1: from bytes to requests, one after the other, and how long each may take.

Owns what one connection holds. Invariants: requests are answered in the order in which they came; a
client that goes away has its handler cancelled; whatever is sent, a connection keeps no more than
`MAX_HEAD` bytes that are no body yet, `BUFFERED` of a body that nobody reads, and one read of what
comes after. The grammar is the parser's matter, and what a request asks for the handler's.

A server of many waiting requests is made of these: what a connection needs only for a moment is
not kept for longer. spec: RFC 9112
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Final, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from homeserver.errors import MatrixError

log = logging.getLogger(__name__)

IDLE_SECONDS = 75.0
"""How long a connection may be idle, or take to send a request's head; above usual proxies' 60."""
LINGER_SECONDS = 3.0
"""How long what is left of a body that nobody wants may come before the connection is closed."""
SWEEP_SECONDS = 1.0
"""How often connections are looked at that have had their time."""
CLOSE_SECONDS = 1.0
"""How long a client may take the rest of its reply when the server ends."""
MAX_LINE = 32_768
"""Bytes of a request's target: /sync takes whole filters in its query."""
MAX_FIELD = 16_384
"""Bytes of one header."""
MAX_FIELDS = 128
MAX_HEAD = 65_536
"""Bytes that may come without any of them being a body's: a head, or what is around chunks."""
BUFFERED = 65_536
"""Bytes of a body that wait for being taken, from which nothing more is read."""

_SLICE = 16_384
_FOREVER = float("inf")
_METHODS: Final = {
    method.encode(): method for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
}
_KEPT: Final = {
    name.encode(): name
    for name in (
        "accept-encoding",
        "authorization",
        "content-length",
        "content-type",
        "expect",
        "if-none-match",
        "if-range",
        "range",
        "transfer-encoding",
        "user-agent",
        "x-forwarded-for",
    )
}
"""The headers that anything here reads; others are not kept."""


_SAME_FOR_MANY: Final = frozenset({"accept-encoding", "content-type", "user-agent"})


class BrokenBody(Exception):
    """The rest of a body can't be understood."""


class RawRequest:
    """One request as it came: its head, and its body piece by piece.

    `method`; `target` is path and query byte for byte; `minor` the 1 of HTTP/1.1; `length` the
    bytes that the body is announced to have, None where that is left open, and `due` those of them
    that have not come; `keep_alive` whether the client wants the connection kept, and `stays`
    whether it was told that it is. `fault` says why a request could not be understood; it then has
    nothing else.
    """

    __slots__ = (
        "_connection",
        "_fields",
        "_held",
        "_parts",
        "_size",
        "_waiter",
        "due",
        "fault",
        "is_whole",
        "keep_alive",
        "length",
        "method",
        "minor",
        "stays",
        "target",
    )

    def __init__(
        self,
        connection: "Connection",
        method: str,
        target: str,
        minor: int,
        fields: Sequence[tuple[str, str]],
        length: int | None,
        *,
        keep_alive: bool,
        fault: MatrixError | None = None,
    ) -> None:
        self._connection = connection
        self._fields = fields
        self._parts: list[bytes] | None = None
        self._size = 0
        self._held = False
        self._waiter: asyncio.Future[None] | None = None
        self.fault = fault
        self.is_whole = False
        self.keep_alive = keep_alive
        self.method = method
        self.minor = minor
        self.stays = False
        self.target = target
        self.length = length
        self.due = length or 0

    def header(self, name: str) -> str | None:
        """The first header of that name (in small letters), None without one."""
        for given, value in self._fields:
            if given == name:
                return value
        return None

    def headers(self, name: str) -> list[str]:
        """All headers of that name (in small letters)."""
        return [value for given, value in self._fields if given == name]

    @property
    def remote(self) -> str | None:
        """The address that the connection comes from; None for a unix socket."""
        return self._connection.remote

    @property
    def is_astray(self) -> bool:
        """Whether nobody knows what comes next: more of the body, or another request."""
        return self.fault is not None or (not self.is_whole and self.header("expect") is not None)

    # The body.

    def take(self) -> bytes:
        """What has come of the body and was not taken yet."""
        parts, self._parts, self._size = self._parts, None, 0
        if not parts:
            return b""
        self._connection.settle()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def more(self) -> bytes:
        """The next piece of the body, nothing at its end; raises BrokenBody."""
        while self._parts is None and not self.is_whole:
            if self.fault is not None:
                raise BrokenBody from self.fault
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self.take()

    def hold(self, held: bool) -> None:
        """Read nothing more from the client until told otherwise."""
        self._held = held
        self._connection.settle()

    @property
    def is_full(self) -> bool:
        """Whether nothing more is to be read for now."""
        return self._held or self._size > BUFFERED

    def came(self, part: bytes) -> None:
        """Take in a piece of the body."""
        if self._parts is None:
            self._parts = [part]
        else:
            self._parts.append(part)
        self._size += len(part)
        self.due -= len(part)
        self._wake()

    def ends(self, fault: MatrixError | None = None) -> None:
        """The body is whole, or its rest will not come."""
        self.is_whole = fault is None
        self.fault = fault
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # The reply.

    def write(self, data: bytes) -> None:
        """Send bytes of the reply; raises ConnectionResetError when the client has gone."""
        self._connection.write(data)

    async def drain(self) -> None:
        """Wait while the client is slow in taking what was sent."""
        await self._connection.drain()

    def abort(self) -> None:
        """End the connection at once."""
        self._connection.abort()


class Connections:
    """All connections of the process to one handler of requests.

    The handler answers by writing to the request; what it raises ends the connection.
    """

    def __init__(self, handle: Callable[[RawRequest], Coroutine[None, None, None]]) -> None:
        self.handle = handle
        self.is_ending = False
        self._open: set[Connection] = set()
        self._cancelled: set[asyncio.Task[None]] = set()
        self._closed = asyncio.Event()
        self._sweeper: asyncio.TimerHandle | None = None

    def protocol(self) -> "Connection":
        """A new connection."""
        return Connection(self)

    def add(self, connection: "Connection") -> None:
        """Remember a connection while it is open."""
        self._closed.clear()
        self._open.add(connection)
        if self._sweeper is None:
            self._plan()

    def discard(self, connection: "Connection") -> None:
        """Forget a connection that is closed."""
        self._open.discard(connection)
        if not self._open:
            self._closed.set()

    def cancel(self, task: asyncio.Task[None]) -> None:
        """End the work on a request that nobody waits for."""
        self._cancelled.add(task)
        task.add_done_callback(self._cancelled.discard)
        task.cancel()

    async def end(self, seconds: float) -> None:
        """Close what is idle at once, and the rest when its request is answered.

        Requests that take longer than these seconds are cancelled. Afterwards none is worked on.
        """
        self.is_ending = True
        for connection in list(self._open):
            connection.end_if_idle()
        tasks = self._tasks()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        if self._open:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._closed.wait()
        for connection in list(self._open):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _tasks(self) -> set[asyncio.Task[None]]:
        return self._cancelled | {one.task for one in self._open if one.task is not None}

    def _plan(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in [one for one in self._open if one.deadline <= now]:
            connection.abort()
        self._sweeper = None
        if self._open:
            self._plan()


class Connection(asyncio.Protocol):
    """One connection.

    `task` answers the request that has its turn; `deadline` is when it is closed, in the loop's
    time, if nothing happens.
    """

    __slots__ = (
        "_all",
        "_answering",
        "_count",
        "_drained",
        "_fields",
        "_is_deaf",
        "_is_paused",
        "_is_within",
        "_length",
        "_parser",
        "_queue",
        "_quiet",
        "_reading",
        "_refused",
        "_remote",
        "_rest",
        "_target",
        "_transport",
        "deadline",
        "task",
    )

    def __init__(self, connections: Connections) -> None:
        self._all = connections
        self._answering: RawRequest | None = None
        self._count = 0
        self._drained: asyncio.Future[None] | None = None
        self._fields: list[tuple[str, str]] | None = None
        self._is_deaf = False
        self._is_paused = False
        self._is_within = False
        self._length: int | None = None
        self._parser: HttpRequestParser | None = None
        self._queue: list[RawRequest] | None = None
        self._quiet = 0
        self._reading: RawRequest | None = None
        self._refused = False
        self._remote: str | None = None
        self._rest: bytes | None = None
        self._target = b""
        self._transport: asyncio.Transport | None = None
        self.deadline = _FOREVER
        self.task: asyncio.Task[None] | None = None

    @property
    def remote(self) -> str | None:
        """The address of the other end; None for a unix socket."""
        if self._remote is None and self._transport is not None:
            peer = self._transport.get_extra_info("peername")
            self._remote = peer[0] if isinstance(peer, tuple) else None
        return self._remote

    def write(self, data: bytes) -> None:
        """Send bytes; raises ConnectionResetError when the client has gone."""
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        transport.write(data)

    async def drain(self) -> None:
        """Wait while much is written that the client has not taken."""
        if self._drained is not None:
            await self._drained
        if self._transport is None:
            raise ConnectionResetError("the client has gone")

    def abort(self) -> None:
        """Close at once, whatever was not sent yet."""
        if self._transport is not None:
            self._transport.abort()

    def end_if_idle(self) -> None:
        """Close if no request is worked on."""
        if self.task is None:
            self._close()

    def settle(self) -> None:
        """Read on, or stop reading, as there is room for what comes."""
        reading = self._reading
        paused = not self._is_deaf and (
            (self._queue is not None or self._rest is not None)
            or (reading is not None and reading.is_full)
        )
        transport = self._transport
        if paused is self._is_paused or transport is None or transport.is_closing():
            return
        self._is_paused = paused
        if paused:
            transport.pause_reading()
        else:
            transport.resume_reading()

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.deadline = _in(IDLE_SECONDS)
        self._all.add(self)
        if self._all.is_ending:
            self._is_deaf = True
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.discard(self)
        self._transport = None
        self._is_deaf = True
        self._fields = self._parser = self._queue = self._reading = self._rest = None
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self.task is not None:
            self._all.cancel(self.task)

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        if self._rest is not None:
            self._rest += data
            return
        self._read(data)
        if self.task is None:
            self._next()
        self.settle()

    def pause_writing(self) -> None:
        self._drained = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None
        if self.task is None:
            self._next()
            self.settle()

    # What the parser finds.

    def on_message_begin(self) -> None:
        self._is_within = True
        self._length = None
        self._target = b""
        self._fields = []

    def on_url(self, part: bytes) -> None:
        self._target += part
        if len(self._target) > MAX_LINE:
            raise _Refused(_refusal(f"The URL is longer than {MAX_LINE} bytes", 414))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._fields is None:
            return  # It follows a body, where nothing is asked for.
        self._count += 1
        if len(value) > MAX_FIELD or self._count > MAX_FIELDS:
            raise _Refused(_TOO_MUCH)
        kept = _KEPT.get(name.lower())
        if kept == "content-length":
            self._length = int(value)
        elif kept is not None:
            made = _field_of_many if kept in _SAME_FOR_MANY and len(value) < 256 else _field
            self._fields.append(made(kept, value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        assert self._fields is not None
        self._quiet = self._count = 0
        if self._reading is None:
            method = parser.get_method()
            self._reading = RawRequest(
                self,
                _METHODS.get(method) or method.decode(),
                self._target.decode("utf-8", "surrogateescape"),
                0 if parser.get_http_version() == "1.0" else 1,
                tuple(self._fields),
                self._length,
                keep_alive=parser.should_keep_alive(),
            )
            self._enqueue(self._reading)
        self._fields = None

    def on_body(self, part: bytes) -> None:
        self._quiet = 0
        # What belongs to a request that was answered already is wanted by nobody.
        if self._reading is not None:
            self._reading.came(part)

    def on_message_complete(self) -> None:
        parser, request = self._parser, self._reading
        assert parser is not None
        self._quiet = 0
        if parser.should_upgrade():
            return  # `_stay` sees to it.
        self._is_within = False
        self._reading = None
        if request is not None:
            request.ends()
            self._is_deaf = not request.keep_alive
        elif self.task is None:
            self.deadline = _in(IDLE_SECONDS)

    # From one to the other.

    def _enqueue(self, request: RawRequest) -> None:
        if self._queue is None:
            self._queue = [request]
        else:
            self._queue.append(request)

    def _read(self, data: bytes) -> None:
        """Parse what came, but no further than to requests that have to wait for others."""
        view = memoryview(data)
        start = 0
        while start < len(data):
            if self._is_deaf:
                break
            if self._queue is not None and (self.task is not None or len(self._queue) > 1):
                self._rest = data[start:]
                break
            # What a body is announced to have holds nothing else.
            step = max(_SLICE, self._reading.due if self._reading is not None else 0)
            self._parse(view[start : start + step])
            start += step
        if not self._is_within:
            self._parser = None

    def _parse(self, data: memoryview) -> None:
        self._quiet += len(data)
        try:
            while True:
                if self._parser is None:
                    self._parser = HttpRequestParser(self)
                try:
                    self._parser.feed_data(data)
                except HttpParserUpgrade as upgrade:
                    data = data[upgrade.args[0] :]
                    self._stay()
                    if self._is_deaf:
                        return
                else:
                    break
        except HttpParserError as error:
            if not self._is_deaf:
                refused = error.__context__
                self._refuse(refused.error if isinstance(refused, _Refused) else _UNCLEAR)
            return
        if self._quiet > MAX_HEAD:
            self._refuse(_TOO_MUCH)

    def _stay(self) -> None:
        """Go on with HTTP/1 where a client has offered to leave it.

        The parser takes such a request to end with its head: another one is told what its body is.
        """
        request, self._parser = self._reading, None
        assert request is not None
        if request.method == "CONNECT":
            request.keep_alive = False
            self._is_deaf = True
        if request.header("transfer-encoding") is not None:
            frame = "Transfer-Encoding: " + ", ".join(request.headers("transfer-encoding"))
        elif request.length:
            frame = f"Content-Length: {request.length}"
        else:
            self._is_within = False
            self._reading = None
            request.ends()
            return
        self._parser = HttpRequestParser(self)
        self._parser.feed_data(
            f"POST / HTTP/1.1\r\n{frame}\r\n\r\n".encode("utf-8", "surrogateescape")
        )

    def _refuse(self, fault: MatrixError) -> None:
        """Take in nothing more: it can't be understood, or is too much."""
        self._is_deaf = True
        self._refused = True
        self._fields = self._parser = self._rest = None
        if self._reading is not None:
            self._reading.ends(fault)
            self._reading = None
        else:
            self._enqueue(RawRequest(self, "", "", 1, (), None, keep_alive=False, fault=fault))

    def _next(self) -> None:
        """Let the next request have its turn, and read on as far as it needs."""
        while True:
            if self.task is None and self._queue is not None:
                if self._drained is not None:
                    return  # The client does not take what it has asked for before.
                self._begin(self._queue)
            is_busy = self.task is not None and self._reading is None
            if self._rest is None or self._queue is not None or is_busy:
                return
            rest, self._rest = self._rest, None
            self._read(rest)

    def _begin(self, queue: list[RawRequest]) -> None:
        request = queue.pop(0)
        if not queue:
            self._queue = None
        self._answering = request
        self.deadline = _FOREVER
        self.task = asyncio.get_running_loop().create_task(self._all.handle(request))
        self.task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        request, self._answering, self.task = self._answering, None, None
        assert request is not None
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ConnectionError):
            log.error("a request failed outside of its handler", exc_info=error)
        if self._transport is None:
            return
        if error is not None or task.cancelled():
            self.abort()
        elif self._all.is_ending or not request.stays:
            self._close()
        else:
            is_left = self._reading is request
            if is_left:
                self._reading = None
            self.deadline = _in(LINGER_SECONDS if is_left else IDLE_SECONDS)
            self._next()
            self.settle()

    def _close(self) -> None:
        """Close, but so that a client that still sends finds its reply."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._reading is None and not self._refused:
            # It closes when the reply is taken, or has not been for long.
            self.deadline = _in(IDLE_SECONDS)
            transport.close()
            return
        self._reading = self._parser = None
        self._is_deaf = True
        self.settle()
        self.deadline = _in(LINGER_SECONDS)
        if transport.can_write_eof():
            transport.write_eof()


class _Refused(Exception):
    """What the parser is told when it finds too much."""

    def __init__(self, error: MatrixError) -> None:
        super().__init__()
        self.error = error


def _field(name: str, value: bytes) -> tuple[str, str]:
    return name, value.decode("utf-8", "surrogateescape")


_field_of_many: Final = lru_cache(maxsize=1_000)(_field)


def _refusal(message: str, status: int) -> MatrixError:
    return MatrixError("M_UNKNOWN", message, status)


_UNCLEAR: Final = _refusal("The request can't be understood", 400)
_TOO_MUCH: Final = _refusal("The headers are too long or too many", 431)


def _in(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds
