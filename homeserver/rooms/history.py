"""A room's events and state, for the clients that may read them.

Owns what the reading endpoints answer: pages of history, an event and its surroundings, the state
and the members as the reader may see them (a member: now; who has left: as it was on leaving; in
world readable rooms anybody: now). Everything that leaves has been asked of a `Reader`.
spec: client-server-api#getting-events-for-a-room
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.filters import EventFilter
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.aggregations import Aggregations, Viewer
from homeserver.rooms.past import MAX_ENDS, PATIENCE, Filled, Past
from homeserver.rooms.readable import Reader, Readers
from homeserver.rooms.state import RoomState
from homeserver.rooms.timeline import NEWEST, OLDEST, Timeline
from homeserver.rooms.views import EventView
from homeserver.runtime.clock import Clock
from homeserver.streams.ignored import Ignored
from homeserver.users.sessions import Session

_MEMBER = "m.room.member"
# How many events one request looks at, when most of them are hidden or filtered out.
_MOST_LOOKED_AT = 2_000
_MOST_SHOWN = 1_000
# One request has other servers asked for more of the past at most this many times less.
_FILL_COUNTS_AS = 500
_MOST_NEAR = 100
_FIRST = 3


@dataclass(frozen=True, slots=True)
class Page:
    """Some events in the order asked for, and the position to go on from; None at the end."""

    views: list[EventView]
    next_pos: int | None


@dataclass(frozen=True, slots=True)
class Looking:
    """One user looking at one room. `until` bounds what of its state may be seen: None for now."""

    session: Session
    room: Room
    reader: Reader
    until: int | None
    ignored: frozenset[str]

    def ignores(self, view: EventView) -> bool:
        """Whether the user wants to hear nothing of the event's sender (state is for all)."""
        return view.state_key is None and view.sender in self.ignored

    def shows(self, view: EventView, event_filter: EventFilter) -> bool:
        """Whether the event passes the filter, isn't ignored, and may be read."""
        if self.ignores(view):
            return False
        room_id = self.room.room_id
        return event_filter.matches(
            view.type, view.sender, room_id, view.contains_url
        ) and self.reader.sees(view)


class History:
    """See the module."""

    def __init__(
        self,
        rooms: Rooms,
        timeline: Timeline,
        state: RoomState,
        readers: Readers,
        ignored: Ignored,
        aggregations: Aggregations,
        past: Past,
        clock: Clock,
    ) -> None:
        self._past = past
        self._rooms = rooms
        self._timeline = timeline
        self._state = state
        self._readers = readers
        self._ignored = ignored
        self._aggregations = aggregations
        self._clock = clock

    async def look(self, session: Session, room_id: str, *, hide: bool = False) -> Looking:
        """Begin to read a room.

        Raises `MatrixError` for who may read nothing of it, of whether it exists or not:
        M_FORBIDDEN, or M_NOT_FOUND where `hide` is set.
        """
        room = await self._rooms.find(room_id)
        if room is not None:
            ignored = await self._ignored.by(session.user_nid, session.user_id)
            reader = await self._readers.of(session.user_nid, room)
            if reader.is_member or reader.open_now:
                return Looking(session, room, reader, None, ignored)
            if reader.was_member and not await self._readers.has_forgotten(session.user_nid, room):
                return Looking(session, room, reader, reader.left_at, ignored)
        if hide:
            raise _no_event()
        raise MatrixError.forbidden("You are not in this room, and its history is not public")

    async def page(
        self,
        looking: Looking,
        event_filter: EventFilter,
        *,
        pos: int | None,
        to: int | None,
        limit: int,
        backwards: bool,
    ) -> Page:
        """At most `limit` events, newest first if `backwards`.

        `pos` is the point to begin at (None: the end or the beginning), `to` where to stop.
        """
        limit = min(limit, _MOST_SHOWN)
        if pos is None:
            pos = NEWEST if backwards else OLDEST
        if backwards and looking.until is not None:
            pos = min(pos, looking.until)
        shown: list[EventView] = []
        looked_at = 0
        while looked_at < _MOST_LOOKED_AT:
            room = looking.room
            wanted = max(limit - len(shown), 10)
            if backwards:
                views = await self._timeline.before(
                    room.nid, room.rules, pos, wanted, OLDEST if to is None else to
                )
            else:
                views = await self._timeline.after(
                    room.nid, room.rules, pos, wanted, NEWEST if to is None else to
                )
            await looking.reader.ready(views)
            for view in views:
                here = view.pos or 0
                pos = here - 1 if backwards else here
                if looking.shows(view, event_filter):
                    shown.append(view)
                    if len(shown) == limit:
                        return Page(shown, pos)
            if len(views) < wanted:
                if not backwards or (to is not None and to >= pos):
                    return Page(shown, None)
                filled = await self._past.more(room)
                if filled is Filled.START:
                    return Page(shown, None)
                if filled is Filled.NOT_YET:
                    return Page(shown, pos)
                looked_at += _FILL_COUNTS_AS
            looked_at += len(views)
        return Page(shown, pos)

    async def event(self, looking: Looking, event_id: str) -> EventView:
        """One event. Raises `MatrixError` M_NOT_FOUND, the same for absent and hidden ones."""
        view = await self._timeline.event(looking.room, event_id)
        if view is not None:
            await looking.reader.ready([view])
        if view is None or looking.ignores(view) or not looking.reader.sees(view):
            raise _no_event()
        return view

    async def near(self, looking: Looking, ts: int, *, backwards: bool) -> EventView:
        """The readable event nearest to a time (ms) on one side. `MatrixError` M_NOT_FOUND.

        Where our part of the room's history begins later than that, or has a gap around it, other
        servers are asked for more of it, for some seconds; what came by then is kept, and the next
        call goes on there.
        spec: client-server-api#get_matrixclientv1roomsroomidtimestamp_to_event
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while await self._is_absent(looking.room, ts):
                    if await self._past.more(looking.room) is not Filled.MORE:
                        break
        views = await self._timeline.near(looking.room, ts, _MOST_NEAR, backwards=backwards)
        await looking.reader.ready(views)
        for view in views:
            if not looking.ignores(view) and looking.reader.sees(view):
                return view
        raise MatrixError.not_found("There is no event on that side of that time")

    async def _is_absent(self, room: Room, ts: int) -> bool:
        """Whether events of a time (ms) may be among those of the room that only others have.

        Times are their senders' word: several events are asked, so that one cannot end the search.
        """
        first = await self._timeline.after(room.nid, room.rules, OLDEST, _FIRST)
        if any(view.ts > ts for view in first):
            return True
        for view in await self._timeline.behind_gaps(room, MAX_ENDS):
            if view.ts > ts and view.pos is not None:
                before = await self._timeline.before(room.nid, room.rules, view.pos, _FIRST)
                if len(before) < _FIRST or any(one.ts <= ts for one in before):
                    return True
        return False

    async def find(self, session: Session, event_id: str) -> bytes:
        """One event as the user sees it, whichever room it is in; M_NOT_FOUND as `event`."""
        room_nids = await self._timeline.rooms_of(event_id)
        for room in (await self._rooms.by_nids(room_nids)).values():
            with suppress(MatrixError):
                looking = await self.look(session, room.room_id)
                return await self.whole(looking, await self.event(looking, event_id))
        raise _no_event()

    async def own_event(self, session: Session, room: Room, event_nid: int) -> bytes:
        """The user's own member event: nothing hides it from whom it concerns."""
        view = (await self._timeline.views([event_nid], room.rules))[event_nid]
        now = self._clock.now_ms()
        return view.render(now, room_id=room.room_id, device_nid=session.device_nid)

    async def state(
        self, looking: Looking, pos: int | None = None, only: Collection[str] | None = None
    ) -> list[EventView]:
        """The state that may be seen, now or after position `pos`; of members `only` these."""
        state = await self._state_nids(looking, pos)
        if only is None:
            return await self._views(looking, state.values())
        keys = await self._state.keys(state)
        return await self._views(
            looking,
            [
                nid
                for key_nid, nid in state.items()
                if keys[key_nid][0] != _MEMBER or keys[key_nid][1] in only
            ],
        )

    async def state_event(self, looking: Looking, key: tuple[str, str]) -> EventView:
        """The state event of a (type, state key). Raises `MatrixError` M_NOT_FOUND."""
        found = await self._state.event_nids(looking.room, [key], looking.until)
        if key not in found:
            raise MatrixError.not_found("The room has no such state")
        return (await self._views(looking, found.values()))[0]

    async def members(self, looking: Looking, pos: int | None = None) -> list[EventView]:
        """The member events that may be seen, now or after position `pos`.

        Raises `MatrixError` M_FORBIDDEN for a position at which the user could read nothing.
        """
        if pos is not None:
            room, pos = looking.room, self._bounded(looking, pos) or pos
            last = await self._timeline.before(room.nid, room.rules, pos, 1)
            await looking.reader.ready(last)
            if not last or not looking.reader.sees(last[0]):
                raise MatrixError.forbidden("You may not see who was in this room then")
        state = await self._state_nids(looking, pos)
        keys = await self._state.keys(state)
        return await self._views(
            looking, [nid for key_nid, nid in state.items() if keys[key_nid][0] == _MEMBER]
        )

    async def senders(
        self, looking: Looking, views: Iterable[EventView], pos: int | None = None
    ) -> list[EventView]:
        """The member events of the events' senders, for clients that load members lazily."""
        keys = {(_MEMBER, view.sender) for view in views}
        found = await self._state.event_nids(looking.room, keys, self._bounded(looking, pos))
        return await self._views(looking, found.values())

    def json(self, looking: Looking, view: EventView, relations: bytes | None = None) -> bytes:
        """The event as the reader sees it, with what was aggregated of its children."""
        view = looking.reader.copy(view, looking.room.rules)
        return view.render(
            self._clock.now_ms(),
            room_id=looking.room.room_id,
            membership=looking.reader.membership_at(view.pos or 0),
            device_nid=looking.session.device_nid,
            relations=relations,
        )

    async def whole(self, looking: Looking, view: EventView) -> bytes:
        """The event as the reader sees it, its aggregations bundled."""
        return self.json(looking, view, (await self.bundles(looking, [view])).get(view.nid))

    async def bundles(self, looking: Looking, views: Collection[EventView]) -> Mapping[int, bytes]:
        """By number the aggregations of those events that have some."""
        viewer = Viewer(
            user_nid=looking.session.user_nid,
            user_id=looking.session.user_id,
            ignored=looking.ignored,
            until=NEWEST if looking.until is None else looking.until,
            reader=looking.reader,
            json=lambda view, relations: self.json(looking, view, relations),
        )
        return await self._aggregations.of(looking.room, views, viewer)

    async def whole_list(self, looking: Looking, views: Collection[EventView]) -> bytes:
        """A JSON list of events, their aggregations bundled."""
        bundles = await self.bundles(looking, views)
        return b"[%b]" % b",".join(
            self.json(looking, view, bundles.get(view.nid)) for view in views
        )

    def json_list(self, looking: Looking, views: Iterable[EventView]) -> bytes:
        """A JSON list of events."""
        return b"[%b]" % b",".join(self.json(looking, view) for view in views)

    async def _state_nids(self, looking: Looking, pos: int | None) -> dict[int, int]:
        pos = self._bounded(looking, pos)
        if pos is None:
            return await self._state.current(looking.room)
        return await self._state.at(looking.room, pos)

    def _bounded(self, looking: Looking, pos: int | None) -> int | None:
        if looking.until is None:
            return pos
        return looking.until if pos is None else min(pos, looking.until)

    async def _views(self, looking: Looking, nids: Collection[int]) -> list[EventView]:
        views = await self._timeline.views(nids, looking.room.rules)
        return [views[nid] for nid in sorted(views)]


def _no_event() -> MatrixError:
    return MatrixError.not_found("There is no such event, or you may not read it")


def content_of(view: EventView) -> JsonObject:
    """The content of an event."""
    content: JsonObject = canonical.decode_object(view.body + b"}")["content"]
    return content
