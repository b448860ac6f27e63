"""Speaking HTTP to another server, wherever it is.

Owns the way of one request: not to a server that waits after a failure, few at a time to each and
in all, over a route from `discovery`, one target after the other until a connection comes about;
and the bookkeeping of success and failure afterwards. Invariant: a slow or silent server costs its
own callers time, and nobody else. What is asked and how it is signed stands in `requests`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from federation.destinations import Destinations
from federation.discovery import Discovery
from homeserver.errors import RemoteError, Unreachable
from homeserver.http.outbound import Answer, ConnectFailed, Outbound, OutboundFailed, Streamed
from homeserver.matrix.canonical import JsonObject, decode, decode_object
from homeserver.matrix.errors import Malformed
from homeserver.runtime.clock import Clock

PER_SERVER = 10
IN_ALL = 400
MAX_TARGETS = 4
# What a proxy says whose server is down.
_GATEWAY_ERRORS = frozenset({502, 503, 504})
LOOK_AGAIN_MS = 60_000
"""How often a server that waits is looked up again while somebody wants something of it."""
MAX_REMEMBERED = 20_000
MAX_REFUSAL_BYTES = 65_536
"""So much is read of an answer that refuses, where a long one was asked for."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One HTTP request to a server; `target` is path and query as they are sent."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None = None


class ServerClient:
    """The client of all other servers."""

    def __init__(
        self, outbound: Outbound, discovery: Discovery, destinations: Destinations, clock: Clock
    ) -> None:
        self._outbound = outbound
        self._discovery = discovery
        self._destinations = destinations
        self._clock = clock
        self._slots: dict[str, _Slot] = {}
        self._all = asyncio.Semaphore(IN_ALL)
        self._places: dict[str, frozenset[tuple[str, int]]] = {}
        self._looked: dict[str, int] = {}
        self._looking: set[asyncio.Task[bool]] = set()

    async def exchange(
        self,
        server: str,
        request: Outgoing,
        *,
        seconds: float,
        max_bytes: int,
        despite_pause: bool = False,
        judge: Callable[[Answer], str | None] | None = None,
    ) -> Answer:
        """The whole answer to a request, whatever its status; raises Unreachable.

        `despite_pause` asks also a server that failed a moment ago. An answer that is too long, or
        comes from a proxy whose server is down, counts as none; so does one about which `judge`
        says why.
        """
        end = asyncio.get_running_loop().time() + seconds
        async with self._turn(server, end, despite_pause):
            tried = self._clock.now_ms()
            try:
                async with (
                    asyncio.timeout_at(end),
                    self._open(server, request, seconds, max_bytes) as answer,
                ):
                    body = b"".join([piece async for piece in answer.chunks()])
            except TimeoutError:
                raise await self._failed(server, f"no answer within {seconds:g} s", tried) from None
            except OutboundFailed as error:
                raise await self._failed(server, str(error), tried) from None
        if answer.status in _GATEWAY_ERRORS and not _is_object(body):
            reason = f"a proxy answers {answer.status} in its place"
            raise await self._failed(server, reason, tried)
        whole = Answer(answer.status, answer.headers, body, answer.url)
        refused = judge(whole) if judge is not None else None
        if refused is not None:
            raise await self._failed(server, refused, tried)
        await self._destinations.succeeded(server)
        return whole

    @asynccontextmanager
    async def stream(
        self,
        server: str,
        request: Outgoing,
        *,
        seconds: float,
        max_bytes: int,
        despite_pause: bool = False,
    ) -> AsyncIterator[Streamed]:
        """The answer to a request as it comes; `chunks` of it raise OutboundFailed.

        Raises Unreachable when the answer does not begin. `despite_pause` asks also a server that
        failed a moment ago.
        """
        end = asyncio.get_running_loop().time() + seconds
        async with self._turn(server, end, despite_pause), AsyncExitStack() as held:
            tried = self._clock.now_ms()
            try:
                async with asyncio.timeout_at(end):
                    answer = await held.enter_async_context(
                        self._open(server, request, seconds, max_bytes)
                    )
            except TimeoutError:
                raise await self._failed(server, "no answer in time", tried) from None
            except OutboundFailed as error:
                raise await self._failed(server, str(error), tried) from None
            await self._destinations.succeeded(server)
            yield answer

    async def look_again(self, server: str) -> bool:
        """Whether a server is elsewhere now than when it failed; then its pause is over."""
        before = self._places.get(server)
        now = await self._discovery.places(server)
        if before is None or not now or now == before:
            return False
        self._places.pop(server, None)
        self._destinations.reset(server)
        return True

    async def close(self) -> None:
        """Give up what is under way in the background."""
        for task in self._looking:
            task.cancel()
        if self._looking:
            await asyncio.wait(self._looking)

    def look_soon(self, server: str) -> None:
        """Look, at most once a minute, whether a server that waits is elsewhere now."""
        now = self._clock.now_ms()
        if now - self._looked.get(server, 0) >= LOOK_AGAIN_MS:
            self._looked[server] = now
            task = asyncio.get_running_loop().create_task(self.look_again(server))
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)

    async def _check(self, server: str) -> None:
        try:
            await self._destinations.check(server)
        except Unreachable:
            self.look_soon(server)
            raise

    @asynccontextmanager
    async def _open(
        self, server: str, request: Outgoing, seconds: float, max_bytes: int
    ) -> AsyncIterator[Streamed]:
        route = await self._discovery.route(server)
        async with AsyncExitStack() as held:
            answer = None
            for number, target in enumerate(route.targets[:MAX_TARGETS], 1):
                try:
                    answer = await held.enter_async_context(
                        self._outbound.open(
                            request.method,
                            target.url + request.target,
                            headers={**request.headers, "Host": route.host},
                            body=request.body,
                            tls_name=route.tls_name if route.tls_name != target.host else None,
                            seconds=seconds,
                            max_bytes=max_bytes,
                        )
                    )
                    break
                except ConnectFailed:
                    self._discovery.doubt(server, route)
                    if number == min(len(route.targets), MAX_TARGETS):
                        raise
            assert answer is not None
            yield answer

    async def _failed(self, server: str, reason: str, tried: int) -> Unreachable:
        retry = await self._destinations.failed(server, reason, tried)
        if len(self._places) >= MAX_REMEMBERED:
            self._places.clear()
            self._looked.clear()
        self._places[server] = await self._discovery.places(server)
        return Unreachable(server, reason, retry)

    @asynccontextmanager
    async def _turn(self, server: str, end: float, despite_pause: bool) -> AsyncIterator[None]:
        """One of the few places for requests to this server, and one of all places.

        Raises Unreachable when there is none by `end` (in the loop's time), or the server has
        failed, be it while this was waited for: a failure is to be told before the place is left.
        """
        if not despite_pause:
            await self._check(server)
        slot = self._slots.setdefault(server, _Slot())
        slot.users += 1
        try:
            async with AsyncExitStack() as held:
                waits = slot.free.locked() or self._all.locked()
                try:
                    async with asyncio.timeout_at(end):
                        await held.enter_async_context(slot.free)
                        await held.enter_async_context(self._all)
                except TimeoutError:
                    reason = "too many requests to it are under way"
                    raise Unreachable(server, reason) from None
                if waits and not despite_pause:
                    await self._check(server)
                yield
        finally:
            slot.users -= 1
            if not slot.users:
                self._slots.pop(server, None)


def json_of(server: str, answer: Answer) -> JsonObject:
    """The JSON object of an answer with status 2xx; raises RemoteError."""
    try:
        body = decode_object(answer.body)
    except Malformed as error:
        raise RemoteError(server, answer.status, message=str(error)) from None
    if 200 <= answer.status < 300:
        return body
    raise _refused(server, answer.status, answer.headers, body)


async def refusal(server: str, answer: Streamed) -> RemoteError:
    """What an answer says that is read as it comes and has not the status that was hoped for."""
    content = b""
    body: JsonObject = {}
    with suppress(OutboundFailed, Malformed):
        async for piece in answer.chunks():
            content += piece
            if len(content) > MAX_REFUSAL_BYTES:
                break
        body = decode_object(content)
    return _refused(server, answer.status, answer.headers, body)


def _refused(server: str, status: int, headers: Mapping[str, str], body: JsonObject) -> RemoteError:
    errcode, message, wait = (body.get(key) for key in ("errcode", "error", "retry_after_ms"))
    if status == 429 and not isinstance(wait, int):
        digits = headers.get("Retry-After", "")
        wait = int(digits) * 1000 if digits.isascii() and digits.isdecimal() else None
    return RemoteError(
        server,
        status,
        errcode if isinstance(errcode, str) else "",
        message if isinstance(message, str) else "",
        body=body,
        retry_after_ms=wait if isinstance(wait, int) else None,
    )


def json_in_list_of(server: str, answer: Answer) -> JsonObject:
    """The JSON object of an answer `[200, {...}]`; raises RemoteError."""
    if not 200 <= answer.status < 300:
        return json_of(server, answer)
    try:
        body = decode(answer.body)
    except Malformed as error:
        raise RemoteError(server, answer.status, message=str(error)) from None
    if not (isinstance(body, list) and len(body) == 2 and isinstance(body[1], dict)):
        raise RemoteError(server, answer.status, message="the answer is not in a list")
    found: JsonObject = body[1]
    return found


class _Slot:
    __slots__ = ("free", "users")

    def __init__(self) -> None:
        self.free = asyncio.Semaphore(PER_SERVER)
        self.users = 0


def _is_object(body: bytes) -> bool:
    try:
        decode_object(body)
    except Malformed:
        return False
    return True
