"""Events that were taken from other servers, until their rooms have judged them.

Owns the staged rows and one task for each room that has some. Rooms take turns, so that one with
many events holds up no other; within a room events are judged in runs, in the order in which they
came, whoever sent them, and those that lacked one of them right behind it. What still lacks
something is left to `gaps`, which asks other servers while the room goes on, for each server that
has sent such events by itself; it is tried again with growing pauses, and given up in the end.
Invariants: a row goes only after what became of its event is committed; nothing that one server
sends or withholds keeps the events of another waiting.
spec: server-server-api#checks-performed-on-receipt-of-a-pdu
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from federation.events import Verifier
from federation.gaps import Gaps
from federation.lacking import Lacking
from federation.shares import Slots, free
from federation.tries import MAX_TRIES, later
from federation.unverified import Unverified
from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import Event
from homeserver.matrix.ids import server_of
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.checks import Missing, Unasked
from homeserver.rooms.receive import Receiver
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from homeserver.streams.numbers import Numbers
from storage import inbound as store
from storage.changes import Change, Put
from storage.engine import Database
from storage.schema import InboundPduRow

log = logging.getLogger(__name__)

RUN = 50
"""Events of a room that are judged before another room has its turn."""
ROOMS_AT_ONCE = 8
LOOK_SECONDS = 10.0


Stored = Callable[[Room, Sequence[str]], Awaitable[None]]


class Staging:
    """See the module."""

    def __init__(
        self,
        rooms: Rooms,
        receiver: Receiver,
        verifier: Verifier,
        gaps: Gaps,
        database: Database,
        commits: CommitQueue,
        numbers: Numbers,
        clock: Clock,
    ) -> None:
        self._rooms = rooms
        self._receiver = receiver
        self._gaps = gaps
        self._database = database
        self._commits = commits
        self._numbers = numbers
        self._clock = clock
        self._turns = asyncio.Semaphore(ROOMS_AT_ONCE)
        self._draining: dict[int, asyncio.Task[None]] = {}
        self._filling: dict[tuple[int, str], asyncio.Task[None]] = {}
        self._again: set[int] = set()
        self._lacking: dict[int, Lacking] = {}
        self._slots = Slots()
        self._unverified = Unverified(verifier, self._slots, database, commits, clock, self.wake)
        self._stored: Stored = _nobody
        self._held: Callable[[str], bool] = _never
        self._closed = False
        self._put_off = asyncio.Event()

    def hold(self, held: Callable[[str], bool]) -> None:
        """Judge nothing of a room (its id) while it is `held`; who lets it go calls `wake`."""
        self._held = held

    def on_stored(self, stored: Stored) -> None:
        """Have `stored(room, event ids)` awaited when events have a place in their room."""
        self._stored = stored

    async def rows(
        self,
        origin: str,
        events: Sequence[tuple[Room, Event, bool]],
        answers: dict[str, JsonObject],
    ) -> list[Change]:
        """The changes that stage events (room, event, whether it was verified).

        What a room has no place for is left out, and says so in `answers`.
        """
        ids: dict[int, list[str]] = {}
        for room, event, _ in events:
            ids.setdefault(room.nid, []).append(event.event_id)
        left: dict[int, int] = {}
        there: dict[int, set[str]] = {}
        for nid, listed in ids.items():
            counts = await store.staged_by(self._database, nid)
            left[nid] = free(counts, origin)
            there[nid] = (
                await store.verified_copies(self._database, nid, listed) if counts else set()
            )
        rows: list[Change] = []
        for room, event, verified in sorted(events, key=lambda one: not one[2]):
            if event.event_id in there[room.nid]:
                continue
            if left[room.nid] <= 0:
                answers[event.event_id] = {"error": "Too many events wait for this room"}
                continue
            left[room.nid] -= 1
            row = InboundPduRow(
                room_nid=room.nid,
                event_id=event.event_id,
                seq=await self._numbers.take_soon("inbound"),
                origin=origin,
                pdu=canonical.encode(event.pdu),
                verified=int(verified),
                tries=0,
                retry_ts=0,
            )
            if verified:
                rows.append(Put(row))
            else:
                rows.append(store.staged_unverified(row, server_of(event.sender)))
        return rows

    def wake(self, room: Room) -> None:
        """Events may be staged for the room: judge them."""
        if self._closed or self._held(room.room_id):
            return
        if room.nid in self._draining:
            self._again.add(room.nid)
            return
        task = asyncio.get_running_loop().create_task(self._drain(room))
        self._draining[room.nid] = task
        task.add_done_callback(lambda _: self._drained(room))

    async def run(self) -> None:
        """Take up what a stop has left behind, and what failed when its pause is over."""
        while True:
            nids = await store.rooms_staged(self._database, self._clock.now_ms(), 1_000)
            for room in (await self._rooms.by_nids(nids)).values():
                self.wake(room)
            self._put_off.clear()
            if not await store.is_staged(self._database):
                await self._put_off.wait()
            await self._clock.sleep(LOOK_SECONDS)

    async def close(self) -> None:
        """Leave the rest to the next start."""
        self._closed = True
        tasks = [
            *self._draining.values(),
            *self._filling.values(),
            *self._unverified.tasks(),
        ]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _drained(self, room: Room) -> None:
        self._draining.pop(room.nid, None)
        if room.nid in self._again:
            self._again.discard(room.nid)
            self.wake(room)

    async def _drain(self, room: Room) -> None:
        lacking = self._lacking.setdefault(room.nid, Lacking())
        after = 0
        try:
            while True:
                async with self._turns:
                    rows, after = await self._next(room, lacking, after)
                    if not rows:
                        break
                    await self._judge(room, lacking, rows)
            self._fill(room)
        except MatrixError as error:
            log.warning("events of %s wait: %s", room.room_id, error)
            self._lacking.pop(room.nid, None)
        except Exception:
            log.exception("the staged events of %s can't be judged", room.room_id)
            self._lacking.pop(room.nid, None)
        self._put_off.set()

    async def _next(
        self, room: Room, lacking: Lacking, after: int
    ) -> tuple[list[InboundPduRow], int]:
        """The next run, and the number of the last row that was looked at."""
        while freed := lacking.take(RUN):
            rows = await store.staged_rows(self._database, room.nid, freed)
            if rows:
                return rows, after
        while True:
            staged = await store.staged(self._database, room.nid, self._clock.now_ms(), after, RUN)
            if not staged:
                return [], after
            after = staged[-1].seq
            self._unverified.check(room, [row for row in staged if not row.verified])
            for row in staged:
                lacking.due(row.event_id)
            rows = [row for row in staged if row.verified and row.event_id not in lacking]
            if rows:
                return rows, after

    async def _judge(self, room: Room, lacking: Lacking, rows: Sequence[InboundPduRow]) -> None:
        """Judge a run of staged events."""
        events = [
            Event.stored(canonical.decode_object(row.pdu), room.rules, row.event_id) for row in rows
        ]
        verdicts = await self._receiver.receive_all(
            room, [(event, row.pdu) for event, row in zip(events, rows, strict=True)]
        )
        placed: list[str] = []
        failed: list[InboundPduRow] = []
        for row, verdict in zip(rows, verdicts, strict=True):
            if isinstance(verdict, Missing):
                lacking.add(row.event_id, row.origin, {*verdict.auth, *verdict.prev})
            elif isinstance(verdict, Unasked):
                lacking.ask(row.event_id, verdict.server)
            elif isinstance(verdict, Exception):
                log.warning("%s in %s: %r", row.event_id, room.room_id, verdict)
                failed.append(row)
            else:
                placed.append(row.event_id)
        await self._commits.commit([store.judged(room.nid, placed), *self._later(failed)])
        lacking.came(placed)
        await self._stored(room, placed)

    def _fill(self, room: Room) -> None:
        """Have what the room's events lack fetched, while the room goes on."""
        lacking = self._lacking.get(room.nid)
        if not lacking:
            self._lacking.pop(room.nid, None)
            return
        for origin in lacking.origins():
            key = (room.nid, origin)
            if key in self._filling or self._closed:
                continue
            task = asyncio.get_running_loop().create_task(self._fill_gaps(room, origin))
            self._filling[key] = task
            task.add_done_callback(partial(self._filled, room, key))

    def _filled(self, room: Room, key: tuple[int, str], _: asyncio.Task[None]) -> None:
        self._filling.pop(key, None)
        self.wake(room)

    async def _fill_gaps(self, room: Room, origin: str) -> None:
        """Fill a gap before an event of the server that waits for no other one of it."""
        try:
            async with self._slots.of(origin):
                while (lacking := self._lacking.get(room.nid)) is not None:
                    event_id = lacking.first(origin)
                    if event_id is None:
                        # Each waits for another: for one at rest, or in a circle, which nobody
                        # could have made honestly.
                        await self._rest(room, lacking, lacking.of(origin))
                        return
                    if await self._fill_gap(room, event_id):
                        if lacking.is_asked(event_id):
                            lacking.drop([event_id])
                            lacking.came([event_id])
                            self.wake(room)
                            continue
                        lacking.recheck()
                        return
                    await self._rest(room, lacking, lacking.with_those_behind(event_id))
        except Exception:
            log.exception("a gap in %s can't be filled", room.room_id)
            await self._clock.sleep(LOOK_SECONDS)

    async def _fill_gap(self, room: Room, event_id: str) -> bool:
        """Whether the event has a place now."""
        for row in await store.staged_rows(self._database, room.nid, [event_id]):
            event = Event.stored(canonical.decode_object(row.pdu), room.rules, row.event_id)
            if await self._gaps.fill(room, event, row.origin):
                await self._commits.commit([store.judged(room.nid, [event_id])])
                await self._stored(room, [event_id])
                return True
        return False

    async def _rest(self, room: Room, lacking: Lacking, event_ids: Sequence[str]) -> None:
        """Try these again later; what is staged no longer, or given up, is forgotten."""
        rows = await store.staged_rows(self._database, room.nid, event_ids)
        await self._commits.commit(self._later(rows))
        staged = {row.event_id for row in rows if row.tries + 1 < MAX_TRIES}
        lacking.rest(staged)
        lacking.drop(set(event_ids) - staged)

    def _later(self, rows: Sequence[InboundPduRow]) -> list[Change]:
        """Try these again after a pause, or give them up."""
        self._put_off.set()
        return later(rows, self._clock.now_ms())


async def _nobody(room: Room, event_ids: Sequence[str]) -> None:
    """Nobody waits for events."""


def _never(room_id: str) -> bool:
    """No room is held."""
    return False
