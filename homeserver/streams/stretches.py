"""Which events of a room make the timeline of a section.

Invariant: a client that believes the last event of a timeline for each state key believes nothing
that isn't so: a timeline begins after the last event that would mislead it. Filters, ignored users
and `rooms/readable.py` say what may be shown; the state that goes with a timeline, and the JSON of
both, are `sections.py`'s.
spec: client-server-api#syncing
"""

from collections.abc import Mapping
from typing import NamedTuple

from homeserver.rooms.actor import Room
from homeserver.rooms.readable import Reader, Readers
from homeserver.rooms.state import RoomState
from homeserver.rooms.timeline import OLDEST, Timeline
from homeserver.rooms.views import EventView
from homeserver.streams.asker import MOST_EVENTS, Asker
from homeserver.streams.news import KeyChange, News
from homeserver.streams.numbers import Names
from storage.schema import NOTIFIES

_PAGES = 5
_CREATE = "m.room.create"
_REDACTION = "m.room.redaction"


class Stretch(NamedTuple):
    """The events a section shows, oldest first; all after position `start` were looked at.

    `counted` when some that are not shown may have changed the number of unread ones; `own` when
    others who were joined all along may be shown others.
    """

    views: list[EventView]
    limited: bool
    start: int
    counted: bool = False
    own: bool = False


class Stretches:
    """See the module."""

    def __init__(
        self, timeline: Timeline, state: RoomState, names: Names, readers: Readers
    ) -> None:
        self._timeline = timeline
        self._state = state
        self._names = names
        self._readers = readers

    async def latest(
        self, asker: Asker, room: Room, reader: Reader, after: int, until: int
    ) -> Stretch:
        """The last events after a position, cut short also where earlier ones are elsewhere."""
        limit = asker.limit
        shown: list[EventView] = []
        told = _ToldKeys()
        pos = until
        first: EventView | None = None
        for _ in range(_PAGES):
            page = await self._timeline.before(room.nid, room.rules, pos, limit + 1, after)
            await reader.ready(page)
            for view in page:
                first = view
                pos = (view.pos or 0) - 1
                if not asker.shows(view, room.room_id) or not reader.sees(view):
                    told.hide(view)
                    continue
                if len(shown) == limit or told.outdated(view):
                    return _cut(shown, view)
                shown.append(view)
                told.show(view)
            if len(page) <= limit:
                shown.reverse()
                # What came before our first join of a room of others' is to be had by paging back.
                elsewhere = after == OLDEST and first is not None and first.type != _CREATE
                return Stretch(shown, limited=elsewhere, start=pos)
        shown.reverse()
        return Stretch(shown, limited=True, start=pos)

    async def since(
        self, asker: Asker, room: Room, news: News, reader: Reader | None, until: int
    ) -> Stretch:
        event_filter = asker.filter.room.timeline
        limit = asker.limit
        # With a filter some of what is found falls away; how far back is looked is bounded.
        most = limit if event_filter.plain and not asker.ignored else MOST_EVENTS
        views = await news.events(room.nid, room.rules, until, most + 1)
        cut = len(views) > most
        if cut:
            views = views[len(views) - most :]
        own = reader is None and await self._readers.hides(room, views)
        if own:
            reader = await self._readers.of(asker.user_nid, room)
        if reader is not None:
            await reader.ready(views)
        if reader is None and event_filter.plain and not asker.ignored:
            shown = views
        else:
            shown = []
            told = _ToldKeys()
            for view in reversed(views):
                if not asker.shows(view, room.room_id) or not (reader is None or reader.sees(view)):
                    told.hide(view)
                    continue
                if len(shown) == limit or told.outdated(view):
                    return _cut(shown, view)._replace(own=own)
                shown.append(view)
                told.show(view)
            shown.reverse()
        if cut:
            start = (views[0].pos or 0) - 1 if views else until
            return Stretch(shown, True, start, own=own)
        counted = not shown and any(
            view.flags & NOTIFIES or view.sender == asker.user_id or view.type == _REDACTION
            for view in views
            if view.sender not in asker.ignored
        )
        return Stretch(shown, limited=False, start=news.since, counted=counted, own=own)

    async def honest(
        self,
        asker: Asker,
        room: Room,
        stretch: Stretch,
        changes: Mapping[int, KeyChange],
        until: int,
    ) -> tuple[Stretch, Mapping[int, KeyChange]]:
        """A stretch whose events tell no state that isn't, and the `changes` that are left in it.

        A client believes the last event of a timeline for each state key, which isn't the room's
        state when the event lost against another branch, or when the state was had anew from
        another server later on: a timeline begins after such an event.
        """
        told = {
            (view.type, view.state_key): view
            for view in stretch.views
            if view.state_key is not None
        }
        if asker.use_state_after or not told:
            return stretch, changes
        key_nids = await self._names.find_keys(told)
        true = {key: changes[nid].after for key, nid in key_nids.items() if nid in changes}
        unchanged = [key for key in told if key not in true]
        if unchanged:
            true |= await self._state.event_nids(room, unchanged, until)
        untrue = [view.pos or 0 for key, view in told.items() if true.get(key) != view.nid]
        if not untrue:
            return stretch, changes
        start = max(untrue)
        views = [view for view in stretch.views if (view.pos or 0) > start]
        left = {
            nid: KeyChange(change.at(start + 1), later)
            for nid, change in changes.items()
            if (later := [step for step in change.steps if step[0] > start])
        }
        return stretch._replace(views=views, limited=True, start=start), left


class _ToldKeys:
    """Which state a timeline tells, looked at from its end.

    A state event is `outdated` when the client would believe it, because what came after it is not
    shown: a timeline begins after such an event.
    """

    __slots__ = ("_hidden", "_shown")

    def __init__(self) -> None:
        self._hidden: set[tuple[str, str]] = set()
        self._shown: set[tuple[str, str]] = set()

    def hide(self, view: EventView) -> None:
        if view.state_key is not None:
            key = (view.type, view.state_key)
            if key not in self._shown:
                self._hidden.add(key)

    def show(self, view: EventView) -> None:
        if view.state_key is not None:
            self._shown.add((view.type, view.state_key))

    def outdated(self, view: EventView) -> bool:
        return view.state_key is not None and (view.type, view.state_key) in self._hidden


def _cut(newest_first: list[EventView], before: EventView) -> Stretch:
    """These events of a longer timeline; `before` is the one that they don't reach back to."""
    newest_first.reverse()
    return Stretch(newest_first, limited=True, start=before.pos or 0)
