"""A room's timeline, by position.

Owns paging through the events that were accepted into a room, and looking one up by its id. The
order is that of the stream: an event stands where this server first saw it, in sync and in history
alike; what is fetched from before has positions below zero. It doesn't ask who may read.
"""

from collections.abc import Collection

from homeserver.matrix import canonical
from homeserver.matrix.versions import RoomRules
from homeserver.rooms.actor import Room
from homeserver.rooms.stored import load_events
from homeserver.rooms.views import EventView, Views
from storage.engine import Database
from storage.events import before_which_missing, event_numbers, near_time, rooms_of_event, timeline
from storage.schema import OUTLIER, REJECTED, SOFT_FAILED

OLDEST = -(2**62)
NEWEST = 2**62


class Timeline:
    """See the module."""

    def __init__(self, database: Database, views: Views) -> None:
        self._database = database
        self._views = views

    async def before(
        self, room_nid: int, rules: RoomRules, pos: int, limit: int, after: int = OLDEST
    ) -> list[EventView]:
        """At most `limit` events with `after` < position <= `pos`, newest first."""
        return await self._page(room_nid, rules, after, pos, limit, backwards=True)

    async def after(
        self, room_nid: int, rules: RoomRules, pos: int, limit: int, until: int = NEWEST
    ) -> list[EventView]:
        """At most `limit` events with `pos` < position <= `until`, oldest first."""
        return await self._page(room_nid, rules, pos, until, limit, backwards=False)

    async def event(self, room: Room, event_id: str) -> EventView | None:
        """An accepted event of the room by its id."""
        found = await event_numbers(self._database, room.nid, [event_id])
        if event_id not in found:
            return None
        nid = found[event_id]
        view = (await self._views.get([nid], room.rules)).get(nid)
        if view is None or view.pos is None or view.flags & (REJECTED | SOFT_FAILED | OUTLIER):
            return None
        return view

    async def near(self, room: Room, ts: int, limit: int, *, backwards: bool) -> list[EventView]:
        """Accepted events of the room nearest to a time (ms) on one side, the nearest first."""
        nids = await near_time(self._database, room.nid, ts, limit, backwards=backwards)
        views = await self._views.get(nids, room.rules)
        return [views[nid] for nid in nids if nid in views]

    async def behind_gaps(self, room: Room, limit: int) -> list[EventView]:
        """Up to `limit` events of the room before which others are absent."""
        nids = await before_which_missing(self._database, room.nid, limit)
        return list((await self._views.get(nids, room.rules)).values())

    async def rooms_of(self, event_id: str) -> list[int]:
        """The rooms (numbers) that have an event of this id."""
        return await rooms_of_event(self._database, event_id)

    async def views(self, nids: Collection[int], rules: RoomRules) -> dict[int, EventView]:
        """Views of events by number."""
        return await self._views.get(nids, rules)

    async def pdus(self, nids: Collection[int], rules: RoomRules) -> dict[int, bytes]:
        """Events by number in the format of federation, with their ids."""
        events = await load_events(self._database, nids, rules)
        return {
            nid: canonical.encode({**event.pdu, "event_id": event.event_id})
            for nid, event in events.items()
        }

    async def _page(
        self,
        room_nid: int,
        rules: RoomRules,
        after: int,
        until: int,
        limit: int,
        *,
        backwards: bool,
    ) -> list[EventView]:
        stored = await timeline(
            self._database, room_nid, after, until, limit, newest_first=backwards
        )
        return await self._views.of(stored, rules)
