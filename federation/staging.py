"""Events that were taken from other servers, until their rooms have judged them.

Owns the staged rows and one task for each room that has some. Rooms take turns, so that one with
many events holds up no other; within a room events are judged in runs, in the order in which they
came, whoever sent them. What lacks something is left to `gaps`, which asks other servers while the
room goes on; it is tried again with growing pauses, and given up in the end. Invariant: a row goes
only after what became of its event is committed.
spec: server-server-api#checks-performed-on-receipt-of-a-pdu
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from federation.events import Refused, Verifier
from federation.gaps import Gaps
from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import Event
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.receive import Missing, Receiver
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
MAX_STAGED = 2_000
"""Events that are staged for one room; what comes then is fetched again as a gap later."""
FIRST_PAUSE_MS = 10_000
LONGEST_PAUSE_MS = 3_600_000
MAX_TRIES = 12
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
        self._verifier = verifier
        self._gaps = gaps
        self._database = database
        self._commits = commits
        self._numbers = numbers
        self._clock = clock
        self._turns = asyncio.Semaphore(ROOMS_AT_ONCE)
        self._draining: dict[int, asyncio.Task[None]] = {}
        self._filling: dict[int, asyncio.Task[None]] = {}
        self._again: set[int] = set()
        self._lacking: dict[int, set[str]] = {}
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
        free: dict[int, int] = {}
        rows: list[Change] = []
        for room, event, verified in events:
            if room.nid not in free:
                count = await store.staged_count(self._database, room.nid, MAX_STAGED)
                free[room.nid] = MAX_STAGED - count
            if free[room.nid] <= 0:
                answers[event.event_id] = {"error": "Too many events wait for this room"}
                continue
            free[room.nid] -= 1
            rows.append(
                Put(
                    InboundPduRow(
                        room_nid=room.nid,
                        event_id=event.event_id,
                        seq=await self._numbers.take_soon("inbound"),
                        origin=origin,
                        pdu=canonical.encode(event.pdu),
                        verified=int(verified),
                        tries=0,
                        retry_ts=0,
                    )
                )
            )
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
                if room.nid not in self._filling:
                    self.wake(room)
            self._put_off.clear()
            if not await store.is_staged(self._database):
                await self._put_off.wait()
            await self._clock.sleep(LOOK_SECONDS)

    async def close(self) -> None:
        """Leave the rest to the next start."""
        self._closed = True
        tasks = [*self._draining.values(), *self._filling.values()]
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
        try:
            while True:
                async with self._turns:
                    more = await self._judge(room)
                if not more:
                    return
        except MatrixError as error:
            log.warning("events of %s wait: %s", room.room_id, error)
        except Exception:
            log.exception("the staged events of %s can't be judged", room.room_id)
        self._put_off.set()

    async def _judge(self, room: Room) -> bool:
        """Judge a run of staged events; whether there may be more that can be judged now."""
        lacking = self._lacking.setdefault(room.nid, set())
        limit = RUN + len(lacking)
        staged = await store.staged(self._database, room.nid, self._clock.now_ms(), limit)
        rows = [row for row in staged if row.event_id not in lacking][:RUN]
        if not rows:
            self._fill(room)
            return False
        events, judged, later = await self._verified(room, rows)
        given = [(event, canonical.encode(event.pdu)) for event in events]
        by_id = {row.event_id: row for row in rows}
        placed: list[str] = []
        for event, verdict in zip(
            events, await self._receiver.receive_all(room, given), strict=True
        ):
            if isinstance(verdict, Missing):
                lacking.add(event.event_id)
            elif isinstance(verdict, Exception):
                log.warning("%s in %s: %r", event.event_id, room.room_id, verdict)
                later.append(by_id[event.event_id])
            else:
                placed.append(event.event_id)
        await self._commits.commit(
            [store.judged(room.nid, [*judged, *placed]), *self._later(later)]
        )
        await self._stored(room, placed)
        return True

    async def _verified(
        self, room: Room, rows: Sequence[InboundPduRow]
    ) -> tuple[list[Event], list[str], list[InboundPduRow]]:
        """The events; the ids of those that turn out to be forged; those without keys still."""
        forged: list[str] = []
        later: list[InboundPduRow] = []
        pdus = {row.event_id: canonical.decode_object(row.pdu) for row in rows}
        checked: dict[str, Event] = {}
        unsure = [row for row in rows if not row.verified]
        if unsure:
            found = await self._verifier.verify([pdus[row.event_id] for row in unsure], room.rules)
            for row, event in zip(unsure, found, strict=True):
                if isinstance(event, Event):
                    checked[row.event_id] = event
                elif event is Refused.NO_KEY:
                    later.append(row)
                else:
                    forged.append(row.event_id)
        events = [
            checked.get(row.event_id) or Event.stored(pdus[row.event_id], room.rules, row.event_id)
            for row in rows
            if row.verified or row.event_id in checked
        ]
        return events, forged, later

    def _fill(self, room: Room) -> None:
        """Have what the room's events lack fetched, while the room goes on."""
        lacking = self._lacking.pop(room.nid, None)
        if not lacking or room.nid in self._filling or self._closed:
            return
        task = asyncio.get_running_loop().create_task(self._fill_gaps(room, lacking))
        self._filling[room.nid] = task
        task.add_done_callback(lambda _: self._filled(room))

    def _filled(self, room: Room) -> None:
        self._filling.pop(room.nid, None)
        self.wake(room)

    async def _fill_gaps(self, room: Room, lacking: set[str]) -> None:
        """Fill the gap before the first of these events that no other of them fills."""
        try:
            staged = await store.staged(self._database, room.nid, self._clock.now_ms(), MAX_STAGED)
            waiting = {row.event_id for row in staged}
            for row in staged:
                if row.event_id not in lacking:
                    continue
                event = Event.stored(canonical.decode_object(row.pdu), room.rules, row.event_id)
                if waiting & {*event.prev_event_ids, *event.auth_event_ids}:
                    continue
                if await self._gaps.fill(room, event, row.origin):
                    await self._commits.commit([store.judged(room.nid, [row.event_id])])
                    await self._stored(room, [row.event_id])
                else:
                    await self._commits.commit(self._later([row]))
                return
            # Each of them waits for another: a circle that nobody could have made honestly, or a
            # chain whose beginning waits for its next try.
            rows = [row for row in staged if row.event_id in lacking]
            await self._commits.commit(self._later(rows))
        except Exception:
            log.exception("a gap in %s can't be filled", room.room_id)
            await self._clock.sleep(LOOK_SECONDS)

    def _later(self, rows: Sequence[InboundPduRow]) -> list[Change]:
        """Try these again after a pause, or give them up."""
        self._put_off.set()
        now = self._clock.now_ms()
        changes: list[Change] = []
        for row in rows:
            tries = row.tries + 1
            if tries >= MAX_TRIES:
                changes.append(store.judged(row.room_nid, [row.event_id]))
                continue
            pause = min(FIRST_PAUSE_MS << (tries - 1), LONGEST_PAUSE_MS)
            changes.append(Put(row._replace(tries=tries, retry_ts=now + pause)))
        return changes


async def _nobody(room: Room, event_ids: Sequence[str]) -> None:
    """Nobody waits for events."""


def _never(room_id: str) -> bool:
    """No room is held."""
    return False
