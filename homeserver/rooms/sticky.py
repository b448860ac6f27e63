"""Sticky events: told to everybody who is in their room, however much else has happened since.

Owns which of a room's events are sticky now, and the memory of which rooms have any, so that those
without cost a sync nothing. An event that was soft-failed, or came as history, is held back: it is
judged by the room's state now, and again when that changes, and told once that allows it, beside
the timeline. How many are told of a room at once is bounded: of a flood only the last.
spec: MSC4354, MSC4480
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from homeserver.matrix.auth import authorise
from homeserver.matrix.errors import Rejected
from homeserver.matrix.event import Event
from homeserver.matrix.sticky import MAX_MS
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.append import Appended
from homeserver.rooms.erased import Erased
from homeserver.rooms.head import Head
from homeserver.rooms.policy import policy_of
from homeserver.rooms.stored import load_events
from homeserver.rooms.timeline import Timeline
from homeserver.rooms.views import EventView
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from storage import sticky_events as store
from storage.changes import Pos, Put
from storage.engine import Database
from storage.memberships import joined_since
from storage.schema import REDACTED

log = logging.getLogger(__name__)

MAX_TOLD = 500
MAX_BYTES = 1_048_576
MAX_HELD = 200
_TIDY_MS = 60_000


class _Last(NamedTuple):
    """The last position at which a sticky event of a room was told, and until when any is one."""

    pos: int
    until: int


class Page(NamedTuple):
    """Sticky events by room id, and up to which position they are told; None: there were none."""

    events: Mapping[str, Sequence[EventView]]
    upto: int | None


class StickyEvents:
    """See the module."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        rooms: Rooms,
        timeline: Timeline,
        clock: Clock,
        server_name: str,
        erased: Erased,
        tell: Callable[[int], None],
    ) -> None:
        """`tell(room number)` wakes those who are in the room."""
        self._database = database
        self._commits = commits
        self._rooms = rooms
        self._timeline = timeline
        self._clock = clock
        self._server_name = server_name
        self._erased = erased
        self._tell = tell
        self._last: dict[int, _Last] = {}
        self._latest = 0
        self._held: dict[int, int] = {}
        self._tidy_at = clock.now_ms() + _TIDY_MS
        self._stirred: dict[int, None] = {}
        self._wake = asyncio.Event()

    def happened(self, room_nid: int, first_pos: int, events: Collection[Appended]) -> None:
        """Events of a room were committed."""
        for pos, appended in enumerate(events, first_pos):
            if appended.sticky_until is not None:
                self._note(room_nid, pos, appended.sticky_until)
            if appended.state_changes and room_nid in self._held:
                self._stirred[room_nid] = None
                self._wake.set()

    def held(self, room_nid: int) -> None:
        """A sticky event of the room was soft-failed, or stands before what clients know."""
        self._held[room_nid] = self._clock.now_ms() + MAX_MS
        self._stirred[room_nid] = None
        self._wake.set()

    def rooms_since(self, room_nids: Collection[int], since: int) -> set[int]:
        """Those of the rooms of which a sticky event was told behind a position."""
        if since >= self._latest:
            return set()
        fewer = self._last if len(self._last) < len(room_nids) else room_nids
        return {
            nid
            for nid in fewer
            if nid in room_nids and nid in self._last and self._last[nid].pos > since
        }

    async def told(
        self, room: Room, after: int, until: int, without: Collection[int]
    ) -> list[EventView]:
        """The room's events told in (after, until] that are sticky now, in order.

        `without` are numbers of events that stand in the timeline anyway.
        """
        after = max(after, 0)  # those held back stand at 0
        last = self._last.get(room.nid)
        if last is None or last.pos <= after:
            return []
        now = self._clock.now_ms()
        listed = await store.told_between(self._database, room.nid, after, until, now, MAX_TOLD)
        wanted = [nid for _, nid in listed if nid not in without]
        views = await self._timeline.views(wanted, room.rules) if wanted else {}
        found: list[EventView] = []
        size = 0
        for view in (views[nid] for nid in wanted):
            size += len(view.body)
            if size > MAX_BYTES:
                break
            if self._may_be_told(view):
                found.append(view)
        found.reverse()
        return found

    async def page(
        self,
        user_nid: int,
        members: Mapping[int, int],
        after: int,
        until: int,
        limit: int,
        without: Collection[str],
        ignored: Collection[str],
    ) -> Page:
        """Events of rooms that a user is in, oldest first.

        `members` are the positions of the user's member events. Told are events of (after, until],
        about `limit`; and of a room that was joined in between those from before, all at once: they
        count as of the join. `without` are ids of events that are told anyway, `ignored` users of
        whom nothing is. spec: MSC4480
        """
        limit = min(max(limit, 1), MAX_TOLD)
        joined = await self._joined(user_nid, members, after)
        stirred = self.rooms_since(members.keys(), after) - joined.keys()
        if not stirred and not joined:
            return Page({}, None)
        now = self._clock.now_ms()
        found = await store.first_told(
            self._database, stirred, max(after, 0), until, now, limit + 1
        )
        for nid, since in joined.items():
            told = await store.told_between(self._database, nid, 0, until, now, MAX_TOLD)
            found += [(max(pos, since), nid, event_nid) for pos, event_nid in told]
        found = sorted(entry for entry in found if entry[0] <= until)
        upto = until
        if len(found) > limit:
            upto = found[limit - 1][0]
            found = [entry for entry in found if entry[0] <= upto]
        rooms = await self._rooms.by_nids({nid for _, nid, _ in found})
        views: dict[int, EventView] = {}
        for nid, room in rooms.items():
            nids = [event_nid for _, room_nid, event_nid in found if room_nid == nid]
            views |= await self._timeline.views(nids, room.rules)
        shown: dict[str, list[EventView]] = {}
        size, last = 0, after
        for pos, nid, event_nid in found:
            view = views[event_nid]
            size += len(view.body)
            if size > MAX_BYTES and shown:
                if pos > last:
                    return Page(shown, last)
                continue
            last = pos
            if (
                self._may_be_told(view)
                and view.event_id not in without
                and view.sender not in ignored
            ):
                shown.setdefault(rooms[nid].room_id, []).append(view)
        return Page(shown, upto if found else None)

    async def _joined(
        self, user_nid: int, members: Mapping[int, int], after: int
    ) -> dict[int, int]:
        """Those of the rooms that the user has joined behind a position, and where."""
        if after <= 0:
            return {}
        joined: dict[int, int] = {}
        for nid, pos in members.items():
            since = await joined_since(self._database, user_nid, nid) if pos > after else None
            if since is not None and since > after:
                joined[nid] = since
        return joined

    def _may_be_told(self, view: EventView) -> bool:
        # Whoever is told now did not know what an erased user wrote, or has had it before.
        return not view.flags & REDACTED and self._erased.since(view.sender) is None

    async def run(self) -> None:
        """Judge again what is held back, and forget what is over, until cancelled."""
        self._stirred |= dict.fromkeys(self._held)
        while True:
            self._wake.clear()
            while self._stirred:
                room_nid = next(iter(self._stirred))
                del self._stirred[room_nid]
                await self._judge(room_nid)
            if self._clock.now_ms() >= self._tidy_at:
                await self.tidy()
            timer = self._clock.call_later(_TIDY_MS / 1_000, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                timer.cancel()

    async def tidy(self) -> None:
        """Forget what is sticky no more."""
        now = self._clock.now_ms()
        self._tidy_at = now + _TIDY_MS
        self._last = {nid: last for nid, last in self._last.items() if last.until > now}
        self._held = {nid: until for nid, until in self._held.items() if until > now}
        await self._commits.commit([store.past(now)])

    async def load(self) -> None:
        """Find what is sticky; to be called before anything happens."""
        for room_nid, pos, until in await store.all_sticky(self._database, self._clock.now_ms()):
            if pos:
                self._note(room_nid, pos, until)
            else:
                self._held[room_nid] = max(until, self._held.get(room_nid, 0))

    def _note(self, room_nid: int, pos: int, until: int) -> None:
        last = self._last.get(room_nid, _Last(0, 0))
        self._last[room_nid] = _Last(max(pos, last.pos), max(until, last.until))
        self._latest = max(self._latest, pos)

    async def _judge(self, room_nid: int) -> None:
        """Tell of those held back in a room that its state now allows."""
        rows = await store.held_in(self._database, room_nid, self._clock.now_ms(), MAX_HELD)
        if not rows:
            self._held.pop(room_nid, None)
            return
        room = (await self._rooms.by_nids([room_nid]))[room_nid]
        events = await load_events(self._database, [row.event_nid for row in rows], room.rules)

        def look(head: Head) -> set[int]:
            return {nid for nid, event in events.items() if self._allowed(head, event)}

        allowed = await self._rooms.read(room, look)
        if not allowed:
            return

        def publish(pos: int) -> None:
            self._note(room_nid, pos, max(row.until for row in rows))
            self._tell(room_nid)

        changes = [Put(row._replace(pos=Pos(0))) for row in rows if row.event_nid in allowed]
        await self._commits.commit(changes, 1, publish)
        log.info(
            "%d sticky events of %s were held back and are told now", len(allowed), room.room_id
        )

    def _allowed(self, head: Head, event: Event) -> bool:
        try:
            authorise(event, head.event)
        except Rejected:
            return False
        policy = policy_of(head, self._server_name)
        return policy is None or policy.recommends(event)
