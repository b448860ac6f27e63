"""/events: the stream of single events that clients read before there was /sync.

Owns what such a client is told after its token: the events that it may read, of all its rooms in
the order of the stream, with typing, receipts and presence behind them. The waiting, and which
rooms have news, are sync's; what may be read is history's. Invariant: an answer that is cut at its
most names the position of its last event, so the next one goes on there.
spec: client-server-api#get_matrixclientv3events
"""

from typing import Any, NamedTuple

from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.filters import EventFilter, Filter
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.history import History
from homeserver.runtime.clock import Clock
from homeserver.streams.memberships import Memberships
from homeserver.streams.notifier import Notifier
from homeserver.streams.sync import Sync, SyncRequest
from homeserver.streams.tokens import Timelines
from homeserver.users.sessions import Session

MOST_EVENTS = 500
_NOTHING = {"not_types": ["*"]}
_WHERE = Filter.parse(
    {
        "account_data": _NOTHING,
        "room": {"account_data": _NOTHING, "state": _NOTHING, "timeline": {"limit": 1}},
    }
)
_ALL = EventFilter.parse({})


class _Found(NamedTuple):
    """Events as JSON with their positions, oldest first; after `until` there may be more."""

    events: list[tuple[int, bytes]]
    until: int


class EventStream:
    """See the module."""

    def __init__(
        self,
        sync: Sync,
        history: History,
        rooms: Rooms,
        memberships: Memberships,
        timelines: Timelines,
        notifier: Notifier,
        clock: Clock,
    ) -> None:
        self._sync = sync
        self._history = history
        self._rooms = rooms
        self._memberships = memberships
        self._timelines = timelines
        self._notifier = notifier
        self._clock = clock

    async def events(self, session: Session, start: str | None, timeout: float) -> bytes:
        """What came after `start` (None: from now on), waiting for it up to `timeout` seconds.

        Raises `MatrixError` M_INVALID_PARAM for a wrong token.
        """
        position = self._sync.position
        start = start or self._timelines.sync_token(position)
        # After a lost future nothing is told twice: the client goes on from what there is.
        after = min(self._timelines.parse_room(start, "from"), position.pos)
        answer = canonical.decode_object(
            await self._sync(SyncRequest(session, start, _WHERE, timeout, devices=False))
        )
        end = str(answer["next_batch"])
        until = self._timelines.parse_room(end, "from")
        sections: dict[str, Any] = answer.get("rooms", {})
        events: list[tuple[int, bytes]] = []
        reached = until
        for room_id in {name for section in sections.values() for name in section}:
            found = await self._in_room(session, room_id, after, until)
            events += found.events
            reached = min(reached, found.until)
        events.sort()
        if len(events) > MOST_EVENTS:
            reached = min(reached, events[MOST_EVENTS - 1][0])
        chunk = [event for pos, event in events if pos <= reached]
        if reached < until:
            known = self._timelines.parse_sync(start, until)
            base = position if known.pos < 0 else known
            end = self._timelines.sync_token(base._replace(pos=reached))
        else:
            chunk += [canonical.encode(event) for event in _ephemeral(answer)]
        return _chunk(start, chunk, end)

    async def peek(
        self, session: Session, room_id: str, start: str | None, timeout: float
    ) -> bytes:
        """`events` for one room that the user may read, in it or not.

        Raises `MatrixError` M_FORBIDDEN for any other, M_INVALID_PARAM for a wrong token.
        spec: client-server-api#get_matrixclientv3events
        """
        start = start or self._timelines.sync_token(self._sync.position)
        after = min(self._timelines.parse_room(start, "from"), self._sync.position.pos)
        deadline = self._clock.monotonic() + timeout
        while True:
            position = self._sync.position
            # Looked at anew each time: the room may have been closed meanwhile.
            looking = await self._history.look(session, room_id)
            found = await self._in_room(session, room_id, after, position.pos)
            if found.events:
                break
            after = found.until
            if after == self._sync.position.pos:
                left = deadline - self._clock.monotonic()
                if not await self._notifier.wait(session.user_nid, left, looking.room.nid):
                    break
        end = self._timelines.sync_token(position._replace(pos=found.until))
        return _chunk(start, [event for _, event in found.events], end)

    async def _in_room(self, session: Session, room_id: str, after: int, until: int) -> _Found:
        room = await self._rooms.find(room_id)
        assert room is not None
        found = _Found([], until)
        try:
            looking = await self._history.look(session, room_id)
        except MatrixError:
            pass  # invited, or no longer so: only the member event is told
        else:
            page = await self._history.page(
                looking, _ALL, pos=after, to=until, limit=MOST_EVENTS, backwards=False
            )
            for view in page.views:
                found.events.append((view.pos or 0, self._history.json(looking, view)))
            if page.next_pos is not None:
                found = found._replace(until=page.next_pos)
        return await self._with_own(session, room, found, after)

    async def _with_own(self, session: Session, room: Room, found: _Found, after: int) -> _Found:
        """With the user's own member event, which no history visibility hides."""
        member = (await self._memberships.of(session.user_nid)).rooms.get(room.nid)
        if member is None or not after < member.pos <= found.until:
            return found
        if all(pos != member.pos for pos, _ in found.events):
            event = await self._history.own_event(session, room, member.event_nid)
            found.events.append((member.pos, event))
        return found


def _ephemeral(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Typing and receipts of the rooms in a sync answer, and its presence."""
    found = [
        {**event, "room_id": room_id}
        for room_id, section in answer.get("rooms", {}).get("join", {}).items()
        for event in section.get("ephemeral", {}).get("events", ())
    ]
    found += answer.get("presence", {}).get("events", ())
    return found


def _chunk(start: str, chunk: list[bytes], end: str) -> bytes:
    return b'{"start":%b,"chunk":[%b],"end":%b}' % (
        canonical.encode(start),
        b",".join(chunk),
        canonical.encode(end),
    )
