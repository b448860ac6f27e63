"""Sending notifications to the gateways of pushers.

Owns who is told of an event, each pusher's queue, and the durable cursor: what happened up to it
was pushed, or is noted at the pushers whose gateways fail and at those by mail (`mailing.py`). So
nothing is lost: after a crash the last second's notifications may come twice. A gateway that was
away for long hears of the newest event of each room, unless it was read meanwhile. It follows the
stream behind the commit and is never called from the way of an event; users without pushers cost
nothing.
spec: client-server-api#push-notifications
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, NamedTuple

from homeserver.matrix.canonical import JsonObject, decode_object
from homeserver.matrix.event import Event
from homeserver.matrix.pushmatch import Facts, outcome_of, tweaks_of
from homeserver.push.badges import Badges
from homeserver.push.gateway import Gateway, GatewayFailed, Notice, wants_badge
from homeserver.push.mailing import Mailing
from homeserver.push.rules import Rules, Told
from homeserver.rooms.actor import Rooms
from homeserver.rooms.append import Appended, MemberChange
from homeserver.rooms.head import Head
from homeserver.rooms.readable import Readers
from homeserver.rooms.timeline import Timeline
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from homeserver.streams.ignored import Ignored
from homeserver.streams.invite_permissions import InvitePermissions, Rule
from homeserver.streams.numbers import Names
from homeserver.streams.ring import ReceiptEntry
from storage import push as store
from storage.appservices import events_in
from storage.changes import Change, Put
from storage.engine import Database
from storage.events import events
from storage.memberships import invites_between, joins_of, of_user_in
from storage.schema import HIGHLIGHTS, INVITE, JOIN, NOTIFIES, REDACTED, PushCursorRow, PusherRow

log = logging.getLogger(__name__)

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 300.0
BADGE_SECONDS = 1.0
SAVE_SECONDS = 1.0
CONCURRENT = 100
SUCCESS_EVERY_MS = 10 * 60_000
"""How often it is kept that a gateway takes what it is brought."""
MAX_WAITING = 50
"""A pusher's queue beyond this holds the newest event of each room only."""
MAX_ERROR = 500
_REPLAYED_AT_ONCE = 100
_TOLD_AT_ONCE = 100
_WATCHING_AT_ONCE = 2_000
_LOADED_AT_ONCE = 1_000

_NOT_MADE = "the notification could not be made; the log has more"

Spawn = Callable[[str, Coroutine[Any, Any, None]], object]


class Happened(NamedTuple):
    """An event that may notify; `event` has no `room_id` yet.

    `invited` is the one whom it invites, if it does and that user has a pusher.
    """

    room_nid: int
    pos: int
    nid: int
    event_id: str
    flags: int
    event: JsonObject
    invited: int | None = None


class PusherState(NamedTuple):
    """When the gateway took something last (ms), whether it fails now, and how much waits."""

    success_ts: int | None
    failing: bool
    waiting: int


class _Waiting(NamedTuple):
    """What one pusher is to be told; a badge has no `notice`."""

    room_nid: int
    pos: int
    notice: Notice | None
    invites: bool = False


class PushSender:
    """See the module."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        clock: Clock,
        rooms: Rooms,
        names: Names,
        rules: Rules,
        ignored: Ignored,
        permissions: InvitePermissions,
        readers: Readers,
        timeline: Timeline,
        badges: Badges,
        gateway: Gateway,
        mailing: Mailing,
        position: Callable[[], int],
        spawn: Spawn,
    ) -> None:
        self._database = database
        self._commits = commits
        self._clock = clock
        self._rooms = rooms
        self._names = names
        self._rules = rules
        self._ignored = ignored
        self._permissions = permissions
        self._readers = readers
        self._timeline = timeline
        self._badges = badges
        self._gateway = gateway
        self._mailing = mailing
        self._position = position
        self._spawn = spawn
        self._users: dict[int, str] = {}
        # By room the joined users who have pushers, each with a position since which they are.
        self._watched: dict[int, dict[int, int]] = {}
        self._heard: deque[Happened] = deque()
        self._woken = asyncio.Event()
        self._queues: dict[store.Key, deque[_Waiting]] = {}
        self._failing: dict[store.Key, int] = {}
        self._shown: dict[store.Key, int] = {}
        self._succeeded: dict[store.Key, int] = {}
        self._kept_ts: dict[store.Key, int] = {}
        self._clearing: set[int] = set()
        self._busy = asyncio.Semaphore(CONCURRENT)
        self._moved = asyncio.Event()
        self._done = self._saved = 0
        self._started = False
        self.sent = self.failures = 0

    @property
    def waiting(self) -> int:
        """Notifications that no gateway has taken yet."""
        return sum(map(len, self._queues.values()))

    @property
    def behind(self) -> int:
        """Events of rooms with pushers that have not been looked at yet."""
        return len(self._heard)

    async def start(self) -> None:
        """Learn who has pushers, and what they have not been told."""
        cursor = await store.cursor(self._database)
        if cursor is None:
            cursor = self._position()
            await self._commits.commit([Put(PushCursorRow(1, cursor))])
        self._done = self._saved = cursor
        last: store.Key = (0, "", "")
        while rows := await store.pushers_after(self._database, last, _LOADED_AT_ONCE):
            last = rows[-1][:3]
            for user_nid in {row.user_nid for row in rows}:
                await self.user_changed(user_nid)
            for row in rows:
                self._mailing.known(row)
                if row.pending_pos is not None:
                    self._failing[row[:3]] = row.pending_pos
        since = min([self._done, *self._failing.values()])
        until = self._position()
        if self._users and since < until:
            happened = await events_in(self._database, list(self._watched), since, until)
            invites = await invites_between(self._database, list(self._users), since, until)
            invited = {pos: user_nid for pos, _, _, user_nid in invites}
            every = {*happened, *(invite[:3] for invite in invites)}
            found = [(*event, invited.get(event[0])) for event in sorted(every)]
            for start in range(0, len(found), _REPLAYED_AT_ONCE):
                await self._replay(found[start : start + _REPLAYED_AT_ONCE])
        # Not before: where a pusher's queue ends, all that it had missed has been told.
        self._started = True
        for key, queue in self._queues.items():
            self._spawn("push", self._deliver(key, queue))

    async def user_changed(self, user_nid: int) -> None:
        """The pushers of a user are others now."""
        if await store.pushers_of(self._database, [user_nid]):
            if user_nid not in self._users:
                self._users[user_nid] = (await self._names.names([user_nid]))[user_nid]
                for room_nid, pos in (await joins_of(self._database, user_nid)).items():
                    self._watch(room_nid, user_nid, pos)
            return
        self._users.pop(user_nid, None)
        for room_nid in [nid for nid, users in self._watched.items() if user_nid in users]:
            self._unwatch(room_nid, user_nid)

    def state(self, row: PusherRow) -> PusherState:
        """How it goes with a pusher over HTTP."""
        key = row[:3]
        return PusherState(
            success_ts=self._succeeded.get(key, row.success_ts),
            failing=key in self._failing,
            waiting=len(self._queues.get(key, ())),
        )

    async def test(self, row: PusherRow, notice: Notice) -> str | None:
        """Bring this to the pusher's gateway now; what went wrong in words, or None."""
        user_id = (await self._names.names([row.user_nid]))[row.user_nid]
        try:
            unread = await self._badges.of(row.user_nid, user_id)
            if not await self._gateway.push(row, notice, unread):
                await self._end(row)
                return "the gateway knows the key no more: the pusher was removed"
        except GatewayFailed as failed:
            await self._note(row[:3], str(failed))
            return str(failed)
        self._succeeded[row[:3]] = self._clock.now_ms()
        return None

    def happened(self, room_nid: int, first_pos: int, appended: Collection[Appended]) -> None:
        """Events of a room were published."""
        if not self._users:
            return
        for pos, one in enumerate(appended, first_pos):
            invited: int | None = None
            for member in one.members:
                if member.user_nid not in self._users:
                    continue
                if member.membership == JOIN:
                    self._watch(room_nid, member.user_nid, pos)
                    continue
                self._unwatch(room_nid, member.user_nid)
                if member.membership == INVITE:
                    invited = member.user_nid
            if invited is not None or room_nid in self._watched:
                self._hear(room_nid, pos, one.nid, one.flags, one.event, invited)

    def outside(self, room_nid: int, pos: int, member: MemberChange, event: Event) -> None:
        """A user was invited to a room that we are not in, or is so no longer."""
        if member.user_nid in self._users and member.membership == INVITE:
            self._hear(room_nid, pos, member.event_nid, 0, event, member.user_nid)

    def read(self, entry: ReceiptEntry) -> None:
        """A receipt has moved: its user's badges may be lower."""
        if entry.user_nid in self._users and entry.user_nid not in self._clearing:
            self._clearing.add(entry.user_nid)
            self._clock.call_later(BADGE_SECONDS, self._clear, entry.user_nid)

    async def run(self) -> None:
        """Tell pushers what happened, until cancelled."""
        while True:
            while self._heard:
                batch = self._next()
                await self._tell(batch)
                for _ in batch:
                    self._heard.popleft()
                self._moved.set()
            self._woken.clear()
            await self._woken.wait()

    async def save(self) -> None:
        """Keep the cursor."""
        done = self._position() if not self._heard else self._heard[0].pos - 1
        for key, queue in self._queues.items():
            if queue and key not in self._failing:
                done = min(done, queue[0].pos - 1)
        changes: list[Change] = []
        for key, ts in self._succeeded.items():
            if ts >= self._kept_ts.get(key, 0) + SUCCESS_EVERY_MS:
                self._kept_ts[key] = ts
                changes.append(store.succeeded(key, ts))
        if done > self._saved:
            self._saved = done
            changes.append(Put(PushCursorRow(1, done)))
        if changes:
            await self._commits.commit(changes)

    async def keep_saving(self) -> None:
        """Keep the cursor, some time after it has moved, until cancelled."""
        while True:
            await self._moved.wait()
            await self._clock.sleep(SAVE_SECONDS)
            self._moved.clear()
            await self.save()

    def _hear(
        self, room_nid: int, pos: int, nid: int, flags: int, event: Event, invited: int | None
    ) -> None:
        shown: JsonObject = {
            "type": event.type,
            "sender": event.sender,
            "content": event.content,
        }
        if event.state_key is not None:
            shown["state_key"] = event.state_key
        self._heard.append(Happened(room_nid, pos, nid, event.event_id, flags, shown, invited))
        self._woken.set()

    def _watch(self, room_nid: int, user_nid: int, pos: int) -> None:
        self._watched.setdefault(room_nid, {}).setdefault(user_nid, pos)

    def _unwatch(self, room_nid: int, user_nid: int) -> None:
        users = self._watched.get(room_nid, {})
        users.pop(user_nid, None)
        if not users:
            self._watched.pop(room_nid, None)

    async def _replay(self, found: Sequence[tuple[int, int, int, int | None]]) -> None:
        stored = await events(self._database, {nid for _, _, nid, _ in found})
        batch = []
        for pos, room_nid, nid, invited in found:
            row, text = stored[nid]
            if not row.flags & REDACTED:
                event = decode_object(text)
                batch.append(Happened(room_nid, pos, nid, row.event_id, row.flags, event, invited))
        await self._tell(batch)

    def _next(self) -> list[Happened]:
        """What is told of at once: it is bounded by whom it may notify."""
        batch: list[Happened] = []
        watching = 0
        for told in self._heard:
            batch.append(told)
            watching += len(self._watched.get(told.room_nid, ()))
            if watching >= _WATCHING_AT_ONCE or len(batch) == _TOLD_AT_ONCE:
                break
        return batch

    async def _tell(self, batch: Sequence[Happened]) -> None:
        """Give these events to the pushers of all whom they notify, in their order."""
        rooms: dict[int, list[Happened]] = {}
        for told in batch:
            rooms.setdefault(told.room_nid, []).append(told)
        notices: dict[int, dict[int, Notice]] = {}

        async def look(events: list[Happened]) -> None:
            for told in events:
                notices[told.pos] = await self._notices_safely(told)

        await asyncio.gather(*map(look, rooms.values()))
        rows: dict[int, list[PusherRow]] = {}
        for row in await self._pushers_of({nid for found in notices.values() for nid in found}):
            rows.setdefault(row.user_nid, []).append(row)
        for told in batch:
            for user_nid, notice in notices[told.pos].items():
                for row in rows.get(user_nid, ()):
                    await self._give(row, told, notice)

    async def _pushers_of(self, user_nids: Collection[int]) -> Sequence[PusherRow]:
        """The users' pushers, however long the database can't be asked."""
        pause = FIRST_PAUSE
        while user_nids:
            try:
                return await store.pushers_of(self._database, user_nids)
            except Exception:
                log.exception("notifications wait for the database")
            await self._clock.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        return ()

    async def _give(self, row: PusherRow, told: Happened, notice: Notice) -> None:
        if not row.enabled:
            return
        if row.mailed_pos is not None:
            try:
                await self._mailing.notify(row, told.pos)
            except Exception:
                log.exception("no mail is planned for %s", told.event_id)
        elif told.pos > self._failing.get(row[:3], self._done):
            invites = row.user_nid == told.invited
            self._add(row[:3], _Waiting(told.room_nid, told.pos, notice, invites))

    async def _notices_safely(self, told: Happened) -> dict[int, Notice]:
        """`_notices`; an event on which it fails must not keep the others back."""
        try:
            return await self._notices(told)
        except Exception:
            log.exception("nobody could be notified of %s", told.event_id)
            return {}

    async def _notices(self, told: Happened) -> dict[int, Notice]:
        """By user what the event is to those whom it notifies."""
        notices: dict[int, Notice] = {}
        joined = dict(self._watched.get(told.room_nid, ()))
        watching = [*joined]
        if told.invited is not None and told.invited not in joined:
            watching.append(told.invited)
        if not watching:
            return notices
        room = (await self._rooms.by_nids([told.room_nid]))[told.room_nid]
        sender: str = told.event["sender"]
        told.event["room_id"] = room.room_id
        seen = await self._rooms.read(room, lambda head: _seen(head, sender))
        facts = Facts(told.event, seen.members, bool(told.flags & HIGHLIGHTS))
        view = (await self._timeline.views([told.nid], room.rules))[told.nid]
        hides = await self._readers.hides(room, [view])
        classes = await self._rules.classes(watching)
        for user_nid, class_ in classes.items():
            user_id = self._users.get(user_nid, sender)
            if user_id == sender or sender in await self._ignored.by(user_nid, user_id):
                continue
            actions = self._rules.actions(class_, user_id, Told(told.nid, facts))
            if not outcome_of(actions).notify or actions is None:
                continue
            if told.event["type"] == "m.room.member" and told.event.get("state_key") == user_id:
                permissions = await self._permissions.of(user_nid)
                invites = told.event["content"].get("membership") == "invite"
                if invites and permissions.rule(sender) is not Rule.ALLOW:
                    continue
            if user_nid != told.invited and (hides or joined[user_nid] > told.pos):
                reader = await self._readers.of(user_nid, room)
                await reader.ready([view])
                if reader.membership_at(told.pos) != "join" or not reader.sees(view):
                    continue
            tweaks = tweaks_of(actions)
            full: JsonObject = {
                "type": told.event["type"],
                "sender": sender,
                "content": told.event["content"],
                **seen.names,
            }
            if told.event["type"] == "m.room.member":
                full["user_is_target"] = told.event.get("state_key") == user_id
            urgent = not told.flags & NOTIFIES or bool(tweaks.get("highlight")) or "sound" in tweaks
            notices[user_nid] = Notice(room.room_id, told.event_id, full, tweaks, urgent)
        return notices

    def _clear(self, user_nid: int) -> None:
        self._clearing.discard(user_nid)
        self._spawn("badge", self._add_badges(user_nid))

    async def _add_badges(self, user_nid: int) -> None:
        rows = await store.pushers_of(self._database, [user_nid])
        await self._mailing.read(rows)
        for row in rows:
            if row.mailed_pos is None and row.enabled and not self._queues.get(row[:3]):
                self._add(row[:3], _Waiting(0, self._position(), None))

    def _add(self, key: store.Key, waiting: _Waiting) -> None:
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = deque((waiting,))
            if self._started:
                self._spawn("push", self._deliver(key, queue))
            return
        queue.append(waiting)
        if len(queue) > MAX_WAITING or key in self._failing:
            # The first may be under way.
            first, *others = queue
            newest = {one.room_nid: one for one in others}
            queue.clear()
            queue.extend((first, *sorted(newest.values(), key=lambda one: one.pos)))

    async def _deliver(self, key: store.Key, queue: deque[_Waiting]) -> None:
        try:
            while queue or key in self._failing:
                if not queue:
                    # What is added from now on is seen in the next round.
                    await self._recovered(key)
                    continue
                if not await self._try(key, queue):
                    self._failing.pop(key, None)
                    return
                queue.popleft()
                self._moved.set()
        finally:
            del self._queues[key]

    async def _try(self, key: store.Key, queue: deque[_Waiting]) -> bool:
        """Bring the first of the queue to the gateway, however long it takes.

        False: the pusher has ended.
        """
        pause = FIRST_PAUSE
        while True:
            try:
                row = await store.pusher(self._database, key)
                if row is None or not row.enabled or key[0] not in self._users:
                    await self.user_changed(key[0])
                    return False
                try:
                    async with self._busy:
                        return await self._push(row, queue[0])
                except GatewayFailed as failed:
                    await self._fails(row, queue[0], str(failed), pause)
                except Exception:
                    log.exception("a notification could not be made")
                    await self._fails(row, queue[0], _NOT_MADE, pause)
            except Exception:
                log.exception("a notification waits for the database")
            await self._clock.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _fails(self, row: PusherRow, first: _Waiting, words: str, pause: float) -> None:
        key = row[:3]
        self.failures += 1
        if key not in self._failing:
            log.info("a gateway of %s fails: %s", self._users.get(key[0]), words)
            await self._commits.commit([store.pending_since(key, first.pos - 1)])
            self._failing[key] = first.pos - 1
        if words != row.error or pause == LONGEST_PAUSE:
            await self._note(key, words)

    async def _recovered(self, key: store.Key) -> None:
        pos = self._failing.pop(key)
        try:
            await self._commits.commit([store.pending_since(key, None)])
        except Exception:
            # It is told more than once then, after the next start.
            log.exception("it is not noted that all since %d was told", pos)

    async def _push(self, row: PusherRow, waiting: _Waiting) -> bool:
        key = row[:3]
        unread = await self._badges.of(row.user_nid, self._users[row.user_nid])
        notice = waiting.notice
        if key in self._failing and not await self._matters(row.user_nid, waiting):
            notice = None
        if notice is None and (self._shown.get(key) == unread or not wants_badge(row)):
            return True
        if not await self._gateway.push(row, notice, unread):
            await self._end(row)
            return False
        self._shown[key] = unread
        self._succeeded[key] = self._clock.now_ms()
        self.sent += 1
        return True

    async def _matters(self, user_nid: int, waiting: _Waiting) -> bool:
        """Whether what the gateway was not there for is still unread, or an open invite."""
        if not waiting.invites:
            return self._badges.has_unread(user_nid, waiting.room_nid)
        rows = await of_user_in(self._database, user_nid, [waiting.room_nid])
        return waiting.room_nid in rows and rows[waiting.room_nid].membership == INVITE

    async def _end(self, row: PusherRow) -> None:
        """The gateway knows the pusher's key no more."""
        key = row[:3]
        await self._commits.commit([store.pusher_ended(key)])
        for known in (self._shown, self._succeeded, self._kept_ts):
            known.pop(key, None)
        await self.user_changed(row.user_nid)

    async def _note(self, key: store.Key, error: str) -> None:
        await self._commits.commit([store.failed(key, error[:MAX_ERROR], self._clock.now_ms())])


class _Seen(NamedTuple):
    members: int
    names: JsonObject


def _seen(head: Head, sender: str) -> _Seen:
    """What is said of the room and the sender."""
    member = head.event("m.room.member", sender)
    names = {
        "sender_display_name": member.content.get("displayname") if member is not None else None,
        "room_name": head.summary.name,
        "room_alias": head.summary.alias,
    }
    said = {name: value for name, value in names.items() if isinstance(value, str)}
    return _Seen(head.summary.joined, said)
