"""The sections of a sync response, one room at a time.

Owns what a client is told of a room: which state it lacks at the start of the timeline that
`stretches.py` chooses, and the JSON of both. Invariant: a client that applies `state` and then the
timeline's state events holds the room's state at the token it is given. It doesn't choose the rooms
(`answer.py`) and doesn't find the news (`news.py`).
spec: client-server-api#syncing
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.filters import Filter, select_fields
from homeserver.rooms.actor import Room
from homeserver.rooms.aggregations import Aggregations, Viewer
from homeserver.rooms.readable import Reader
from homeserver.rooms.state import RoomState
from homeserver.rooms.timeline import OLDEST, Timeline
from homeserver.rooms.views import EventView
from homeserver.streams.asker import Asker, StateName
from homeserver.streams.news import KeyChange, News, collect
from homeserver.streams.numbers import Names
from homeserver.streams.required import Required
from homeserver.streams.stretches import Stretch, Stretches
from homeserver.streams.tokens import Timelines
from storage.schema import LEAVE

# For how long what was told is told to others as well, though its `age` was true only then.
_MOMENT_MS = 100
_MEMBER = "m.room.member"
# What the summary of a room is made of.
_SUMMARISED = frozenset((_MEMBER, "m.room.name", "m.room.canonical_alias"))


@dataclass(slots=True)
class Told:
    """What is told of a room; `silent` when that is nothing.

    `events` and `state` are JSON; `views` are the timeline's events, `gone` the required state
    that was taken away. `summary` is None where it can't have changed; `changed` when any of the
    state has.
    """

    views: list[EventView]
    events: list[bytes]
    limited: bool
    prev_batch: str
    state: list[bytes]
    state_name: StateName
    summary: JsonObject | None
    gone: list[tuple[str, str]] = field(default_factory=list)
    changed: bool = False
    silent: bool = False
    _parts: list[bytes] | None = None

    @property
    def parts(self) -> list[bytes]:
        """The parts of the room's section in an answer of /sync."""
        if self._parts is None:
            self._parts = [
                b'"timeline":{"events":[%b],"limited":%b,"prev_batch":"%b"}'
                % (
                    b",".join(self.events),
                    b"true" if self.limited else b"false",
                    self.prev_batch.encode(),
                ),
                b'"%b":{"events":[%b]}' % (self.state_name.encode(), b",".join(self.state)),
            ]
            if self.summary is not None:
                self._parts.append(b'"summary":' + canonical.encode(self.summary))
        return self._parts


class _Shared(NamedTuple):
    """What was told of a room a moment ago, and the devices that would be told otherwise."""

    told: Told
    now: int
    devices: frozenset[int | None]


class Sections:
    """See the module."""

    def __init__(
        self,
        timeline: Timeline,
        state: RoomState,
        names: Names,
        timelines: Timelines,
        aggregations: Aggregations,
        stretches: Stretches,
    ) -> None:
        self._timeline = timeline
        self._state = state
        self._names = names
        self._timelines = timelines
        self._aggregations = aggregations
        self._stretches = stretches
        self._shared_news: News | None = None
        self._shared: dict[tuple[int, Filter, StateName], _Shared] = {}

    async def afresh(
        self,
        asker: Asker,
        room: Room,
        reader: Reader,
        until: int,
        *,
        known: int | None = None,
        after: int = OLDEST,
        own: int | None = None,
    ) -> Told:
        """`timeline`, `state` and `summary` for a client that knows nothing of the room.

        `known`: it may still show what it knew of the room, in an earlier stay, up to here; what
        stands up to `after` it has. For `own` see `update`.
        """
        if asker.lazy and asker.members is not None:
            asker.members.forget(room.nid)
        stretch = await self._stretches.latest(asker, room, reader, after, until)
        changes: Mapping[int, KeyChange] = {}
        if asker.required is None:
            changes = collect(await self._state.changes(room, stretch.start, until))
            stretch, changes = await self._stretches.honest(asker, room, stretch, changes, until)
        if asker.misled or known is not None:
            stretch = stretch._replace(limited=True)
        summary = await self._state.summary(room, asker.user_nid) if reader.is_member else None
        if asker.required is None:
            heroes = _heroes(summary)
            whole = await self._whole_state(asker, room, stretch, changes, until, heroes, known)
            owed: Collection[int] = whole.values()
        else:
            owed = await self._required_state(asker, asker.required, room, stretch, until)
        state = await self._loaded(asker, room, owed)
        stretch, state = await self._with_own(asker, room, stretch, state, own)
        return await self._parts(asker, room, stretch, state, reader, until, summary)

    async def update(
        self,
        asker: Asker,
        room: Room,
        news: News,
        reader: Reader | None,
        until: int,
        *,
        own: int | None = None,
        more: Reader | None = None,
    ) -> Told:
        """`timeline`, `state` and `summary` for a client that knows the room up to `news.since`.

        `reader` is None when the user was joined all along: then it may read everything but what
        was sent to another fork of the room, where it perhaps was not. `own` is
        the user's member event (number) where it came after `until`, the end of the user's stay.
        With `more` the timeline begins before `news.since` where its limit allows: it is the last
        one that this reader may read.
        What is the same for all who ask for the same news at one moment is made once.
        """
        share = reader is None and own is None and more is None and not asker.special
        key = (room.nid, asker.filter, asker.state_name)
        if share:
            if self._shared_news is not news:
                self._shared_news, self._shared = news, {}
            made = self._shared.get(key)
            if (
                made is not None
                and asker.now - made.now < _MOMENT_MS
                and asker.device_nid not in made.devices
            ):
                return made.told
        if more is None:
            stretch = await self._stretches.since(asker, room, news, reader, until)
        else:
            stretch = await self._stretches.latest(asker, room, more, OLDEST, until)
        changes = await news.state(room.nid, until)
        if asker.required is None:
            stretch, _ = await self._stretches.honest(asker, room, stretch, changes, until)
        summary: JsonObject | None = None
        if reader is None and (asker.full_state or await self._summarised(changes)):
            summary = await self._state.summary(room, asker.user_nid)
        owed, gone = await self._owed_state(asker, stretch, changes) if changes else ([], [])
        if asker.full_state:
            later = collect(await self._state.changes(room, stretch.start, until))
            whole = await self._whole_state(asker, room, stretch, later, until, _heroes(summary))
            owed = list({*whole.values(), *owed})
        if asker.required is not None:
            if stretch.limited and asker.members is not None:
                # It must throw away what it knows of the members, as it isn't told of all changes.
                asker.members.forget(room.nid)
            if asker.had is not None:
                more_state = await self._required_state(asker, asker.required, room, stretch, until)
                owed = list({*more_state, *owed})
        state = await self._loaded(asker, room, owed)
        if asker.lazy and not asker.full_state:
            heroes = _heroes(summary) if asker.required is None else ()
            state += await self._owed_members(
                asker, room, stretch, state, heroes, news.since, until
            )
        stretch, state = await self._with_own(asker, room, stretch, state, own)
        told = await self._parts(asker, room, stretch, state, reader, until, summary)
        told.gone = gone
        told.changed = bool(changes)
        told.silent = not (
            stretch.views or stretch.limited or stretch.counted or state or summary or gone
        )
        # Aggregations are of one user; only what is cut short has them.
        share = share and not stretch.limited and not stretch.own
        if share and summary is None and stretch.views and self._shared_news is news:
            senders = frozenset(view.txn[0] for view in stretch.views if view.txn is not None)
            if asker.device_nid not in senders:
                self._shared[key] = _Shared(told, asker.now, senders)
        return told

    async def farewell(self, asker: Asker, room: Room, event_nid: int) -> Told:
        """`timeline` and `state` for a user who has gone: the event that says so, no more."""
        view = await self.view(room, event_nid)
        pos = view.pos or 0
        stretch, state = await self._with_own(
            asker, room, Stretch([], limited=False, start=pos - 1), [], event_nid
        )
        if asker.misled:
            stretch = stretch._replace(limited=True)
        return await self._parts(asker, room, stretch, state, Reader([(pos, LEAVE)], ()), pos, None)

    async def view(self, room: Room, event_nid: int) -> EventView:
        """One event of the room."""
        return (await self._timeline.views([event_nid], room.rules))[event_nid]

    async def _with_own(
        self,
        asker: Asker,
        room: Room,
        stretch: Stretch,
        state: list[EventView],
        event_nid: int | None,
    ) -> tuple[Stretch, list[EventView]]:
        """Stretch and state with the user's own member event at the end, where there is one."""
        if event_nid is None:
            return stretch, state
        view = await self.view(room, event_nid)
        if asker.shows(view, room.room_id):
            stretch = stretch._replace(views=[*stretch.views, view])
        if asker.use_state_after:
            key = (view.type, view.state_key)
            others = [event for event in state if (event.type, event.state_key) != key]
            state = [*others, *await self._loaded(asker, room, [event_nid])]
        return stretch, state

    # --- state

    async def _whole_state(
        self,
        asker: Asker,
        room: Room,
        stretch: Stretch,
        changes: Mapping[int, KeyChange],
        until: int,
        heroes: Collection[str],
        known: int | None = None,
    ) -> dict[int, int]:
        """The state at the start of the timeline, with what of the `changes` it doesn't tell.

        A client that loads members lazily gets those whom it needs: senders, `heroes`, itself, and
        those who have changed after position `known`, up to which it may have been told of them.
        """
        state = await self._state.at(room, stretch.start)
        shown = {view.nid for view in stretch.views}
        for key_nid, change in changes.items():
            in_timeline = any(nid in shown for _, nid in change.steps)
            if in_timeline and not asker.use_state_after:
                continue
            if change.after is None:
                state.pop(key_nid, None)
            else:
                state[key_nid] = change.after
        if not asker.lazy:
            return state
        wanted = {asker.user_id, *heroes, *(view.sender for view in stretch.views)}
        moved: set[int] = set()
        if known is not None:
            moved = {change.key_nid for change in await self._state.changes(room, known, until)}
        keys = await self._state.keys(state)
        return {
            key_nid: nid
            for key_nid, nid in state.items()
            if key_nid in moved or keys[key_nid][0] != _MEMBER or keys[key_nid][1] in wanted
        }

    async def _required_state(
        self, asker: Asker, required: Required, room: Room, stretch: Stretch, until: int
    ) -> list[int]:
        """The state at `until` that is required, without what already was."""
        needed = _needed_members(stretch) if asker.lazy else frozenset()
        if required.whole:
            state = await self._state.at(room, until)
            keys = await self._state.keys(state)
            found = {keys[key_nid]: nid for key_nid, nid in state.items()}
        else:
            named = {*required.keys, *((_MEMBER, user) for user in needed)}
            found = await self._state.event_nids(room, named, until)
            if types := required.types:
                found |= await self._state.of_types(room, types, until)
        had = asker.had
        return [
            nid
            for key, nid in found.items()
            if (key[0] == _MEMBER and key[1] in needed)
            or (required.matches(*key) and not (had is not None and had.matches(*key)))
        ]

    async def _owed_state(
        self, asker: Asker, stretch: Stretch, changes: Mapping[int, KeyChange]
    ) -> tuple[list[int], list[tuple[str, str]]]:
        """Events of the keys that changed and whose value the timeline doesn't tell.

        And the required keys that have no value any more.
        """
        shown = {view.nid for view in stretch.views}
        required = asker.required
        names: Mapping[int, tuple[str, str]] = {}
        if required is not None:
            names = await self._names.keys(changes.keys())
        owed: list[int] = []
        gone: list[tuple[str, str]] = []
        for key_nid, change in changes.items():
            if required is not None and not (
                required.matches(*names[key_nid])
                or (asker.lazy and names[key_nid][0] == _MEMBER and not stretch.limited)
            ):
                continue
            if asker.use_state_after:
                value = change.after
            elif any(nid in shown for _, nid in change.steps):
                value = change.at(stretch.start + 1)
            else:
                value = change.after
            if value is not None and value != change.before:
                owed.append(value)
            elif value is None and change.before is not None and required is not None:
                gone.append(names[key_nid])
        return owed, gone

    async def _summarised(self, changes: Mapping[int, KeyChange]) -> bool:
        """Whether the summary may have changed with the state."""
        if not changes:
            return False
        keys = await self._names.keys(changes.keys())
        return any(type_ in _SUMMARISED for type_, _ in keys.values())

    async def _owed_members(
        self,
        asker: Asker,
        room: Room,
        stretch: Stretch,
        state: Iterable[EventView],
        heroes: Collection[str],
        since: int,
        until: int,
    ) -> list[EventView]:
        """Member events of the timeline's senders, and of heroes, that the client doesn't have."""
        wanted = {*heroes, *(view.sender for view in stretch.views)}
        if asker.required is not None:
            wanted |= _needed_members(stretch)
        wanted.difference_update(view.state_key for view in state if view.type == _MEMBER)
        if asker.members is not None:
            known = asker.members.known(room.nid, since)
            if not asker.filter.room.state.include_redundant_members:
                wanted -= known
                if asker.required is None:
                    # It was told at the join, and is told of each change.
                    wanted.discard(asker.user_id)
        if not wanted:
            return []
        pos = stretch.start if asker.required is None else until
        nids = await self._state.event_nids(room, [(_MEMBER, user) for user in wanted], pos)
        return await self._loaded(asker, room, nids.values())

    async def _loaded(self, asker: Asker, room: Room, nids: Collection[int]) -> list[EventView]:
        if not nids:
            return []
        views = await self._timeline.views(nids, room.rules)
        state_filter = asker.filter.room.state
        return [
            view
            for nid in sorted(views)
            if state_filter.matches(
                (view := views[nid]).type, view.sender, room.room_id, view.contains_url
            )
        ]

    # --- JSON

    async def _parts(
        self,
        asker: Asker,
        room: Room,
        stretch: Stretch,
        state: list[EventView],
        reader: Reader | None,
        until: int,
        summary: JsonObject | None,
    ) -> Told:
        if asker.lazy and asker.members is not None:
            told = [view.state_key for view in (*state, *stretch.views) if view.type == _MEMBER]
            asker.members.sent(room.nid, until, filter(None, told))
        if asker.filter.event_format == "federation":
            pdus = await self._timeline.pdus(
                {view.nid for view in (*state, *stretch.views)}, room.rules
            )
        else:
            pdus = {}
        if reader is not None:
            stretch, state, pdus = _copies(reader, room, stretch, state, pdus)
        bundles: Mapping[int, bytes] = {}
        if stretch.limited and not pdus:
            bundles = await self._bundles(asker, room, stretch, reader, until)
        return Told(
            views=stretch.views,
            events=[
                _render(
                    asker,
                    view,
                    "join" if reader is None else reader.membership_at(view.pos or 0),
                    pdus.get(view.nid),
                    bundles.get(view.nid),
                )
                for view in stretch.views
            ],
            limited=stretch.limited,
            prev_batch=self._timelines.room_token(stretch.start),
            state=[_render(asker, view, None, pdus.get(view.nid)) for view in state],
            state_name=asker.state_name,
            summary=summary,
        )

    async def _bundles(
        self, asker: Asker, room: Room, stretch: Stretch, reader: Reader | None, until: int
    ) -> Mapping[int, bytes]:
        """The aggregations of the events of a timeline that is cut short, by number."""

        def json(view: EventView, relations: bytes | None) -> bytes:
            membership = "join"
            if reader is not None:
                membership = reader.membership_at(view.pos or 0)
                view = reader.copy(view, room.rules)
            return view.render(
                asker.now,
                room_id=room.room_id,
                membership=membership,
                device_nid=asker.device_nid,
                relations=relations,
            )

        viewer = Viewer(
            user_nid=asker.user_nid,
            user_id=asker.user_id,
            ignored=asker.ignored,
            until=until,
            reader=reader,
            json=json,
        )
        return await self._aggregations.of(room, stretch.views, viewer)


def _copies(
    reader: Reader,
    room: Room,
    stretch: Stretch,
    state: list[EventView],
    pdus: dict[int, bytes],
) -> tuple[Stretch, list[EventView], dict[int, bytes]]:
    """All as the reader gets it; of what is kept from the reader there is no PDU either."""
    shown = {view.nid: reader.copy(view, room.rules) for view in (*stretch.views, *state)}
    same = {view.nid for view in (*stretch.views, *state) if shown[view.nid] is view}
    return (
        stretch._replace(views=[shown[view.nid] for view in stretch.views]),
        [shown[view.nid] for view in state],
        {nid: pdu for nid, pdu in pdus.items() if nid in same},
    )


def _needed_members(stretch: Stretch) -> set[str]:
    """Those who sent the events of a timeline, or whose membership they are."""
    found = {view.sender for view in stretch.views}
    found.update(view.state_key or "" for view in stretch.views if view.type == _MEMBER)
    return found


def _heroes(summary: JsonObject | None) -> list[str]:
    heroes: list[str] = summary.get("m.heroes", []) if summary is not None else []
    return heroes


def _render(
    asker: Asker,
    view: EventView,
    membership: str | None,
    pdu: bytes | None,
    relations: bytes | None = None,
) -> bytes:
    rendered = pdu
    if rendered is None:
        rendered = view.render(
            asker.now, membership=membership, device_nid=asker.device_nid, relations=relations
        )
    if asker.filter.event_fields is None:
        return rendered
    event = canonical.decode_object(rendered)
    return canonical.encode(select_fields(event, asker.filter.event_fields))
