"""Walking back through what notified a user.

Owns the reading: room by room, newest first, the events that notify the user by the rules of now.
Invariant: one step reads a bounded number of events, and what it finds has been asked of the room's
`Reader`. Redacted events, ignored users and invites that the user doesn't take are left out. In
which order rooms are read, and when it ends, is decided by `notifications.py` and `digests.py`.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from homeserver.matrix.canonical import JsonObject, decode_object
from homeserver.matrix.pushmatch import Facts, outcome_of
from homeserver.matrix.pushrules import Actions
from homeserver.push.rules import Rules, Told
from homeserver.push.unread import Counted, UnreadCounts
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.history import History, Looking
from homeserver.rooms.timeline import Timeline
from homeserver.rooms.views import EventView
from homeserver.streams.ignored import Ignored
from homeserver.streams.invite_permissions import InvitePermissions, Rule
from homeserver.streams.memberships import Membership, Memberships
from homeserver.streams.ring import Ring
from homeserver.users.sessions import Session
from storage.engine import Database
from storage.events import TailEvent, mentions, tail
from storage.rooms import heads, summaries
from storage.schema import HIGHLIGHTS, INVITE, JOIN, NOTIFIES, REDACTED

_READ_AT_ONCE = 50
_ROOMS_AT_ONCE = 100


class Found(NamedTuple):
    """An event that notifies, its JSON without `unsigned`, and whether the user has read it."""

    pos: int
    view: EventView
    event: JsonObject
    actions: Actions
    read: bool


@dataclass(slots=True)
class Walk:
    """How far one room was read; `last` when nothing lies before `waiting`."""

    room: Room
    invited: bool
    member: Membership
    looking: Looking | None = None
    members: int = 0
    unread: frozenset[int] = frozenset()
    waiting: deque[Found] = field(default_factory=deque)
    last: bool = False
    end: int = 0


class Walker(NamedTuple):
    """For whom is read, and the class of their rules."""

    session: Session
    reader: Counted
    class_: bytes | None


class Walks:
    """See the module."""

    def __init__(
        self,
        database: Database,
        ring: Ring,
        rooms: Rooms,
        memberships: Memberships,
        ignored: Ignored,
        permissions: InvitePermissions,
        history: History,
        timeline: Timeline,
        rules: Rules,
        unread: UnreadCounts,
    ) -> None:
        self._database = database
        self._ring = ring
        self._rooms = rooms
        self._memberships = memberships
        self._ignored = ignored
        self._permissions = permissions
        self._history = history
        self._timeline = timeline
        self._rules = rules
        self._unread = unread

    @property
    def now(self) -> int:
        """The position of what happened last."""
        return self._ring.pos

    async def walker(self, session: Session) -> Walker:
        """Begin to read for a user."""
        ignored = await self._ignored.by(session.user_nid, session.user_id)
        reader = Counted(session.user_nid, session.user_id, ignored)
        return Walker(session, reader, await self._rules.class_of(session.user_nid))

    async def begin(self, walker: Walker, until: int) -> dict[int, Walk]:
        """The rooms with something at or before `until`, each from where it may begin."""
        user = await self._memberships.of(walker.reader.user_nid)
        wanted = {
            nid: member for nid, member in user.rooms.items() if member.membership in (JOIN, INVITE)
        }
        rooms = await self._rooms.by_nids(wanted)
        ends = {nid: member.pos for nid, member in wanted.items() if member.membership == INVITE}
        joined = [nid for nid, member in wanted.items() if member.membership == JOIN]
        for start in range(0, len(joined), _ROOMS_AT_ONCE):
            found = await heads(self._database, joined[start : start + _ROOMS_AT_ONCE])
            ends |= {nid: min(head.last_pos, until) for nid, head in found.items()}
        return {
            nid: Walk(rooms[nid], wanted[nid].membership == INVITE, wanted[nid], end=end)
            for nid, end in ends.items()
            if end <= until and nid in rooms
        }

    async def read(self, walker: Walker, walk: Walk, until: int, now: int, after: int = 0) -> None:
        """Fetch the room's next events in (after, until], and keep those that notify."""
        room, reader = walk.room, walker.reader
        if walk.invited:
            walk.last = True
            member = walk.member
            found = [TailEvent(member.event_nid, member.pos, 0, NOTIFIES, 0, is_state=True)]
        else:
            if walk.looking is None:
                walk.looking = await self._history.look(walker.session, room.room_id)
                walk.unread = await self._unread.positions(reader, room, walk.member.pos, now)
                counted = await summaries(self._database, [room.nid])
                walk.members = counted[room.nid].joined if room.nid in counted else 0
            found = await tail(self._database, room.nid, after, until, _READ_AT_ONCE)
            walk.last = len(found) < _READ_AT_ONCE
            walk.end = found[-1].pos - 1 if found else until
            found = await self._wanted(walk, walker, found)
        views = await self._timeline.views([event.event_nid for event in found], room.rules)
        if walk.looking is not None:
            await walk.looking.reader.ready(views.values())
        else:
            permissions = await self._permissions.of(reader.user_nid)
            views = {
                nid: view
                for nid, view in views.items()
                if permissions.rule(view.sender) is Rule.ALLOW
            }
        for event in found:
            view = views.get(event.event_nid)
            if view is None or not _shows(walk, reader, event, view):
                continue
            facts = decode_object(view.body + b"}")
            facts["room_id"] = room.room_id
            told = Told(view.nid, Facts(facts, walk.members, bool(event.flags & HIGHLIGHTS)))
            actions = self._rules.actions(walker.class_, reader.user_id, told)
            if actions is not None and outcome_of(actions).notify:
                read = walk.looking is not None and event.pos not in walk.unread
                walk.waiting.append(Found(event.pos, view, facts, actions, read))

    async def _wanted(
        self, walk: Walk, walker: Walker, found: Sequence[TailEvent]
    ) -> list[TailEvent]:
        """Those of the events that may notify: others' that are still what they were."""
        reader = walker.reader
        wanted = [
            event
            for event in found
            if event.sender_nid != reader.user_nid and not event.flags & REDACTED
        ]
        if walker.class_ is not None or not wanted:
            return wanted
        named = await mentions(
            self._database, reader.user_nid, walk.room.nid, wanted[-1].pos - 1, wanted[0].pos
        )
        return [
            event
            for event in wanted
            if event.flags & NOTIFIES or event.is_state or event.pos in named
        ]


def _shows(walk: Walk, reader: Counted, event: TailEvent, view: EventView) -> bool:
    """Whether it was told to the user, being one of the members then or invited by it."""
    if view.sender in reader.ignored:
        return False
    if walk.looking is None or (view.type == "m.room.member" and view.state_key == reader.user_id):
        return True
    read_by = walk.looking.reader
    return read_by.membership_at(event.pos) == "join" and read_by.sees(view)
