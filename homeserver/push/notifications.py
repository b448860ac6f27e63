"""The list of what a user was notified about.

Owns the walk back through the rooms in which the user is joined, and the user's invites: newest
first, found on read, so that nothing is stored per message and user. Rules are those of now.
Invariant: one call reads a bounded number of events, and says where to go on; what is shown has
been asked of the room's `Reader`. Redacted events, ignored users and invites that the user doesn't
take are left out.
spec: client-server-api#listing-notifications
"""

import heapq
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.canonical import decode_object
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

MOST_SHOWN = 100
_READ_AT_ONCE = 50
_MOST_READS = 40
_ROOMS_AT_ONCE = 100
_TOKEN = re.compile(r"n1_([0-9]{1,18})")


@dataclass(slots=True)
class _Walk:
    """How far one room was read; `last` when nothing lies before `waiting`."""

    room: Room
    member: Membership
    looking: Looking | None = None
    members: int = 0
    unread: frozenset[int] = frozenset()
    waiting: deque[tuple[TailEvent, EventView, Actions]] = field(default_factory=deque)
    last: bool = False
    end: int = 0


class Notifications:
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

    async def __call__(
        self, session: Session, start: str | None, limit: int, *, highlights: bool
    ) -> bytes:
        """The answer: at most `limit` notifications from `start` on, those of `highlights` only.

        Raises `MatrixError` M_INVALID_PARAM for a token that isn't ours.
        """
        now = self._ring.pos
        until = min(now, _position(start)) if start is not None else now
        ignored = await self._ignored.by(session.user_nid, session.user_id)
        reader = Counted(session.user_nid, session.user_id, ignored)
        class_ = await self._rules.class_of(session.user_nid)
        walks = await self._walks(session, until)
        order = [(-walk.end, nid) for nid, walk in walks.items()]
        heapq.heapify(order)
        shown: list[bytes] = []
        reads, passed = 0, until + 1
        limit = min(limit, MOST_SHOWN)
        while order and len(shown) < limit:
            end, nid = heapq.heappop(order)
            walk = walks[nid]
            if not walk.waiting:
                if reads == _MOST_READS:
                    heapq.heappush(order, (end, nid))
                    break
                reads += 1
                await self._read(session, walk, reader, class_, -end, now)
            else:
                event, view, actions = walk.waiting.popleft()
                passed = event.pos
                if outcome_of(actions).highlight or not highlights:
                    shown.append(await self._shown(session, walk, event, view, actions))
            if walk.waiting:
                heapq.heappush(order, (-walk.waiting[0][0].pos, nid))
            elif not walk.last:
                heapq.heappush(order, (-walk.end, nid))
        answer = b'"notifications":[%b]' % b",".join(shown)
        if order:
            answer += b',"next_token":"n1_%d"' % min(-order[0][0], passed - 1)
        return b"{%b}" % answer

    async def _walks(self, session: Session, until: int) -> dict[int, _Walk]:
        """The rooms with something at or before `until`, each from where it may begin."""
        user = await self._memberships.of(session.user_nid)
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
            nid: _Walk(rooms[nid], wanted[nid], end=end)
            for nid, end in ends.items()
            if end <= until and nid in rooms
        }

    async def _read(
        self,
        session: Session,
        walk: _Walk,
        reader: Counted,
        class_: bytes | None,
        until: int,
        now: int,
    ) -> None:
        """Fetch the room's next events at or before `until`, and keep those that notify."""
        room = walk.room
        if walk.member.membership == INVITE:
            walk.last = True
            found = [TailEvent(walk.member.event_nid, walk.member.pos, 0, NOTIFIES, is_state=True)]
        else:
            if walk.looking is None:
                walk.looking = await self._history.look(session, room.room_id)
                walk.unread = await self._unread.positions(reader, room, walk.member.pos, now)
                counted = await summaries(self._database, [room.nid])
                walk.members = counted[room.nid].joined if room.nid in counted else 0
            found = await tail(self._database, room.nid, 0, until, _READ_AT_ONCE)
            walk.last = len(found) < _READ_AT_ONCE
            walk.end = found[-1].pos - 1 if found else until
            found = await self._wanted(walk, reader, class_, found)
        views = await self._timeline.views([event.event_nid for event in found], room.rules)
        if walk.looking is not None:
            await walk.looking.reader.ready(views.values())
        else:
            permissions = await self._permissions.of(session.user_nid)
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
            actions = self._rules.actions(class_, reader.user_id, told)
            if actions is not None and outcome_of(actions).notify:
                walk.waiting.append((event, view, actions))

    async def _wanted(
        self, walk: _Walk, reader: Counted, class_: bytes | None, found: Sequence[TailEvent]
    ) -> list[TailEvent]:
        """Those of the events that may notify: others' that are still what they were."""
        wanted = [
            event
            for event in found
            if event.sender_nid != reader.user_nid and not event.flags & REDACTED
        ]
        if class_ is not None or not wanted:
            return wanted
        named = await mentions(
            self._database, reader.user_nid, walk.room.nid, wanted[-1].pos - 1, wanted[0].pos
        )
        return [
            event
            for event in wanted
            if event.flags & NOTIFIES or event.is_state or event.pos in named
        ]

    async def _shown(
        self, session: Session, walk: _Walk, event: TailEvent, view: EventView, actions: Actions
    ) -> bytes:
        if walk.looking is not None:
            json = await self._history.whole(walk.looking, view)
        else:
            json = await self._history.own_event(session, walk.room, view.nid)
        unread = walk.looking is None or event.pos in walk.unread
        return b'{"actions":%b,"event":%b,"read":%b,"room_id":%b,"ts":%d}' % (
            canonical.encode(actions),
            json,
            b"false" if unread else b"true",
            canonical.encode(walk.room.room_id),
            view.ts,
        )


def _shows(walk: _Walk, reader: Counted, event: TailEvent, view: EventView) -> bool:
    """Whether it was told to the user, being one of the members then or invited by it."""
    if view.sender in reader.ignored:
        return False
    if walk.looking is None or (view.type == "m.room.member" and view.state_key == reader.user_id):
        return True
    read_by = walk.looking.reader
    return read_by.membership_at(event.pos) == "join" and read_by.sees(view)


def _position(token: str) -> int:
    found = _TOKEN.fullmatch(token)
    if found is None:
        raise MatrixError.invalid_param("from: this is not a token of this server")
    return int(found[1])
