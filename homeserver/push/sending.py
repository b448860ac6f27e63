"""From what happens to the queues of pushers.

Owns the durable cursor: whom it notifies that stands up to it was found, and they were told, or it
is noted at the pushers whose gateways fail (`queues.py`) and at those by mail (`mailing.py`). So
nothing is lost: after a crash the last second's notifications may come twice. It follows the stream
behind the commit and is never called from the way of an event; users without pushers cost nothing.

An event for which that fails, while the database answers, keeps nobody else waiting: it is looked
at again later, and the cursor stays before it for that long.
spec: client-server-api#push-notifications
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain

from homeserver.matrix.event import Event
from homeserver.push.audience import Audience, Happened, happened, read_happened
from homeserver.push.gateway import Notice, Waiting
from homeserver.push.mailing import Mailing
from homeserver.push.patience import Patience, pause_after
from homeserver.push.queues import MOST_TRIES, Queues
from homeserver.push.turns import Spawn
from homeserver.rooms.append import Appended, MemberChange
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from homeserver.streams.ring import ReceiptEntry
from storage import push as store
from storage.appservices import events_in
from storage.changes import Put
from storage.engine import Database
from storage.memberships import invites_between
from storage.schema import INVITE, JOIN, PushCursorRow, PusherRow

log = logging.getLogger(__name__)

BADGE_SECONDS = 1.0
MOST_LOWERED = 200
_COUNT_OTHERWISE = frozenset({"m.ignored_user_list", "m.push_rules"})
SAVE_SECONDS = 1.0
_REPLAYED_AT_ONCE = 100
_TOLD_AT_ONCE = 100
_WATCHING_AT_ONCE = 2_000
_LOADED_AT_ONCE = 1_000


class PushSender:
    """See the module."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        clock: Clock,
        audience: Audience,
        queues: Queues,
        mailing: Mailing,
        patience: Patience,
        position: Callable[[], int],
        spawn: Spawn,
    ) -> None:
        self._database = database
        self._commits = commits
        self._clock = clock
        self._audience = audience
        self._queues = queues
        self._mailing = mailing
        self._patience = patience
        self._position = position
        self._spawn = spawn
        self._heard: deque[Happened] = deque()
        # What is looked at again, by position, with how often it was, and what of it is due.
        self._late: dict[int, tuple[Happened, int]] = {}
        self._due: deque[int] = deque()
        self._woken = asyncio.Event()
        self._moved = asyncio.Event()
        # Whose badges may be lower, and whether they have read something.
        self._clearing: dict[int, bool] = {}
        self._saved = 0
        # The pushers whose gateways failed before the start: `queues.py` finds what they missed.
        self._failed: Collection[store.Key] = ()
        queues.moved = self._moved.set

    @property
    def behind(self) -> int:
        """Events of rooms with pushers that are still to be looked at."""
        return len(self._heard) + len(self._late)

    async def start(self) -> None:
        """Learn who has pushers, and what they have not been told."""
        cursor = await store.cursor(self._database)
        if cursor is None:
            cursor = self._position()
            await self._commits.commit([Put(PushCursorRow(1, cursor))])
        self._saved = cursor
        last: store.Key = (0, "", "")
        while rows := await store.pushers_after(self._database, last, _LOADED_AT_ONCE):
            last = rows[-1][:3]
            for user_nid in {row.user_nid for row in rows}:
                await self._audience.user_changed(user_nid)
            for row in rows:
                self._mailing.known(row)
                self._queues.known(row)
        self._failed = self._queues.failing
        until = self._position()
        users = list(self._audience.users)
        if users and cursor < until:
            found = await events_in(self._database, list(self._audience.rooms), cursor, until)
            invites = await invites_between(self._database, users, cursor, until)
            invited = {pos: user_nid for pos, _, _, user_nid in invites}
            every = sorted({*found, *(invite[:3] for invite in invites)})
            for start in range(0, len(every), _REPLAYED_AT_ONCE):
                some = every[start : start + _REPLAYED_AT_ONCE]
                await self._tell(*await read_happened(self._database, some, invited))
        self._queues.start(until)

    def happened(self, room_nid: int, first_pos: int, appended: Collection[Appended]) -> None:
        """Events of a room were published."""
        if not self._audience.users:
            return
        for pos, one in enumerate(appended, first_pos):
            invited = self._audience.moved(room_nid, pos, one.members)
            self._lowered(room_nid, one)
            if invited is not None or self._audience.watching(room_nid):
                self._hear(happened(room_nid, pos, one.nid, one.flags, one.event, invited))

    def outside(self, room_nid: int, pos: int, member: MemberChange, event: Event) -> None:
        """A user was invited to a room that we are not in, or is so no longer."""
        user_nid = member.user_nid
        if user_nid in self._audience.users and member.membership == INVITE:
            self._hear(happened(room_nid, pos, member.event_nid, 0, event, user_nid))

    def read(self, entry: ReceiptEntry) -> None:
        """A receipt has moved: its user's badges may be lower."""
        self._fell(entry.user_nid, read=True)

    def account_data(self, user_nid: int, type_: str) -> None:
        """Account data has changed: other things count than before, perhaps."""
        if type_ in _COUNT_OTHERWISE:
            self._fell(user_nid)

    async def run(self) -> None:
        """Tell pushers what happened, until cancelled."""
        while True:
            while self._due:
                await self._tell(self._late[self._due.popleft()][0])
                self._moved.set()
            while self._heard:
                batch = self._next()
                await self._tell(*batch)
                for _ in batch:
                    self._heard.popleft()
                self._moved.set()
            self._woken.clear()
            if not self._due:
                await self._woken.wait()

    async def save(self) -> None:
        """Keep the cursor: it is kept when this returns."""
        done = self._position() if not self._heard else self._heard[0].pos - 1
        done = min([done, *(pos - 1 for pos in self._late)])
        done = self._queues.told_up_to(done)
        changes = self._queues.successes()
        if done > self._saved:
            changes.append(Put(PushCursorRow(1, done)))
        if changes:
            await self._commits.commit(changes)
            self._saved = max(self._saved, done)

    async def keep_saving(self) -> None:
        """Keep the cursor, some time after it has moved, until cancelled."""
        while True:
            await self._moved.wait()
            await self._clock.sleep(SAVE_SECONDS)
            self._moved.clear()
            await self.save()

    def _lowered(self, room_nid: int, one: Appended) -> None:
        """An event may lower the badges of who has left, has spoken, or had what is redacted."""
        users = [member.user_nid for member in one.members if member.membership != JOIN]
        if one.redacted is not None:
            watchers = self._audience.watchers(room_nid)
            # Many would all be counted anew: theirs fall with what they are told next.
            users += watchers if len(watchers) <= MOST_LOWERED else ()
        elif (sender_nid := self._audience.user_nid(one.event.sender)) is not None:
            users.append(sender_nid)
        for user_nid in users:
            if self._queues.has_unread(user_nid, room_nid):
                self._fell(user_nid)

    def _fell(self, user_nid: int, *, read: bool = False) -> None:
        if user_nid not in self._audience.users:
            return
        if user_nid not in self._clearing:
            self._clock.call_later(BADGE_SECONDS, self._clear, user_nid)
        self._clearing[user_nid] = read or self._clearing.get(user_nid, False)

    def _hear(self, told: Happened) -> None:
        self._heard.append(told)
        self._woken.set()

    def _next(self) -> list[Happened]:
        """What is told of at once: it is bounded by whom it may notify."""
        batch: list[Happened] = []
        watching = 0
        for told in self._heard:
            batch.append(told)
            watching += self._audience.watching(told.room_nid)
            if watching >= _WATCHING_AT_ONCE or len(batch) == _TOLD_AT_ONCE:
                break
        return batch

    async def _tell(self, *batch: Happened) -> None:
        """Give these events to the pushers of all whom they notify, or look at them again later."""
        try:
            await self._give(batch)
        except Exception as error:
            failure = error
        else:
            for told in batch:
                self._late.pop(told.pos, None)
            return
        await self._patience.until_done(
            "notifications wait for the database", lambda: store.cursor(self._database)
        )
        if len(batch) > 1:
            for told in batch:
                await self._tell(told)
            return
        (told,) = batch
        tries = self._late[told.pos][1] + 1 if told.pos in self._late else 1
        log.error("nobody could be notified of %s", told.event_id, exc_info=failure)
        if tries == MOST_TRIES:
            del self._late[told.pos]
            return
        self._late[told.pos] = told, tries
        self._clock.call_later(pause_after(tries), self._again, told.pos)

    def _again(self, pos: int) -> None:
        self._due.append(pos)
        self._woken.set()

    async def _give(self, batch: Sequence[Happened]) -> None:
        """Give these events to the pushers of all whom they notify, in their order; all or none."""
        rooms: dict[int, list[Happened]] = {}
        for told in batch:
            rooms.setdefault(told.room_nid, []).append(told)
        notices: dict[int, dict[int, Notice]] = {}

        async def look(events: list[Happened]) -> None:
            for told in events:
                notices[told.pos] = await self._audience.notices(told)

        if len(rooms) == 1:
            await look(list(batch))
        else:
            async with asyncio.TaskGroup() as group:
                for in_room in rooms.values():
                    group.create_task(look(in_room))
        users = {nid for found in notices.values() for nid in found}
        rows: dict[int, list[PusherRow]] = {}
        for row in await store.pushers_of(self._database, users) if users else ():
            if row.enabled:
                rows.setdefault(row.user_nid, []).append(row)
        for told in batch:
            for row in _each(rows, notices[told.pos]):
                if row.mailed_pos is not None:
                    await self._mailing.notify(row, told.pos)
        for told in batch:
            for user_nid, notice in notices[told.pos].items():
                invites = user_nid == told.invited
                waiting = Waiting(told.room_nid, told.pos, notice, invites)
                for row in rows.get(user_nid, ()):
                    missed = told.replayed and row[:3] in self._failed
                    if row.mailed_pos is None and not missed:
                        self._queues.add(row, waiting)

    def _clear(self, user_nid: int) -> None:
        self._spawn("badge", self._add_badges(user_nid, self._clearing.pop(user_nid)))

    async def _add_badges(self, user_nid: int, has_read: bool) -> None:
        async def read() -> list[PusherRow]:
            rows = await store.pushers_of(self._database, [user_nid])
            if has_read:
                await self._mailing.read(rows)
            return rows

        for row in await self._patience.until_done("a badge waits for the database", read):
            if row.mailed_pos is None and row.enabled:
                self._queues.add_badge(row, self._position())


def _each(rows: Mapping[int, Sequence[PusherRow]], user_nids: Iterable[int]) -> Iterator[PusherRow]:
    """The pushers of these users."""
    return chain.from_iterable(rows.get(nid, ()) for nid in user_nids)
