"""Searching the messages of the rooms that a user is in, or was in.

Owns the words under which an event can be found, the search with its filters, groups, order and
context, and its tokens. What is found is asked of the room's `Reader` like everything that leaves
the server; what was redacted has no words. Encrypted messages can't be found. Beginnings of words
find as words do, but for messages that are newer than the last page of those with the whole words.
spec: client-server-api#server-side-search
"""

import re
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.filters import EventFilter
from homeserver.rooms import words
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.history import History, Looking, content_of
from homeserver.rooms.indexed import FIELDS, KEYS
from homeserver.rooms.timeline import Timeline
from homeserver.rooms.views import EventView
from homeserver.streams.memberships import Memberships
from homeserver.streams.numbers import Names
from homeserver.streams.tokens import Timelines
from homeserver.users.sessions import Session
from storage import search as store
from storage.engine import Database
from storage.events import event_rows
from storage.schema import BAN, JOIN, LEAVE, REDACTED, EventRow

_MOST_SHOWN = 50
_AT_ONCE = 200
_FEW = 10
_MOST_LOOKED_AT = 2_000
_MOST_ROOMS = 200
_MOST_CONTEXT = 20
_BEYOND_ALL = 2**62
_TOKEN = re.compile(r"q1_(\d{1,18})(?:_([rs])(\d{1,18}))?")


class Query(NamedTuple):
    """What is looked for. `before` and `after` are None where no context is wanted."""

    term: str
    keys: Sequence[str]
    filter: EventFilter
    by_rank: bool
    before: int | None
    after: int | None
    profiles: bool
    state: bool
    groups: frozenset[str]
    start: str | None


@dataclass(slots=True)
class _Found:
    """Results so far, the last number that was looked at, and whether there may be more."""

    views: list[EventView] = field(default_factory=list)
    last: int = _BEYOND_ALL
    more: bool = True


class _Marks(NamedTuple):
    """Of which types is what is found, and of which room (`r`) or sender (`s`), by number."""

    types: frozenset[str]
    group: tuple[str, int] | None = None

    def groups(self, row: EventRow) -> bool:
        """Whether the event is of the group that is asked for."""
        if self.group is None:
            return True
        kind, nid = self.group
        return nid == (row.room_nid if kind == "r" else row.sender_nid)


class Search:
    """See the module."""

    def __init__(
        self,
        database: Database,
        rooms: Rooms,
        memberships: Memberships,
        history: History,
        timeline: Timeline,
        names: Names,
        timelines: Timelines,
    ) -> None:
        self._database = database
        self._rooms = rooms
        self._memberships = memberships
        self._history = history
        self._timeline = timeline
        self._names = names
        self._timelines = timelines

    async def __call__(self, session: Session, query: Query) -> bytes:
        """The answer's `room_events`. Raises `MatrixError` M_INVALID_PARAM for a wrong token."""
        asked = words.asked(query.term)
        rooms = await self._searched(session, query.filter)
        limit = query.filter.capped(10, _MOST_SHOWN)
        found, lookings = _Found(), dict[int, Looking]()
        if asked and rooms and limit:
            found = await self._find(session, query, asked, rooms, limit, lookings)
        else:
            found.more = False
        whole = set(words.written(query.term))
        ranks = {view.nid: _rank(view, whole) for view in found.views}
        if query.by_rank:
            found.views.sort(key=lambda view: (ranks[view.nid], view.nid), reverse=True)
        bundles: dict[int, bytes] = {}
        for room_nid, mine in _by_room(found.views).items():
            bundles |= await self._history.bundles(lookings[room_nid], mine)
        results = [
            b'{"rank":%b,"result":%b%b}'
            % (
                repr(ranks[view.nid]).encode(),
                self._history.json(lookings[view.room_nid], view, bundles.get(view.nid)),
                await self._context(lookings[view.room_nid], view, query),
            )
            for view in found.views
        ]
        parts = [
            b'"results":[%b]' % b",".join(results),
            b'"count":%d' % len(found.views),
            b'"highlights":' + canonical.encode(words.shown(query.term)),
        ]
        if found.more:
            parts.append(b'"next_batch":"%b"' % _token(found.last, query.start).encode())
        if query.groups:
            parts.append(b'"groups":' + canonical.encode(await self._groups(query, found, rooms)))
        if query.state:
            parts.append(b'"state":{%b}' % await self._states(lookings, found))
        return b"{%b}" % b",".join(parts)

    async def _searched(self, session: Session, event_filter: EventFilter) -> dict[int, Room]:
        user = await self._memberships.of(session.user_nid)
        wanted = [
            nid
            for nid, member in user.rooms.items()
            if member.membership == JOIN
            or (member.membership in (LEAVE, BAN) and not member.forgotten)
        ]
        rooms = await self._rooms.by_nids(wanted)
        return {nid: room for nid, room in rooms.items() if event_filter.admits_room(room.room_id)}

    async def _find(
        self,
        session: Session,
        query: Query,
        asked: Sequence[str],
        rooms: Mapping[int, Room],
        limit: int,
        lookings: dict[int, Looking],
    ) -> _Found:
        found, marks = _Found(), _Marks(frozenset(KEYS[key][0] for key in query.keys))
        if query.start is not None:
            match = _TOKEN.fullmatch(query.start)
            if match is None:
                raise MatrixError.invalid_param("next_batch: this is not a token of this server")
            found.last = int(match.group(1))
            if match.group(2):
                marks = marks._replace(group=(match.group(2), int(match.group(3))))
        size = min(2 * limit + _FEW, _AT_ONCE)
        for terms in (
            # What whole words find is read from the newest on; of beginnings all that have them
            # are gathered first. Who has the word itself in many messages is shown those.
            [store.Words([word], prefix=words.is_character(word)) for word in asked],
            [store.Words([word], prefix=True) for word in asked],
        ):
            nids = await store.found(self._database, terms, found.last, size)
            if len(nids) == size:
                # Many have them: the index is to leave out those that are not wanted.
                terms += await self._narrowing(query, rooms, marks)
                nids = await store.found(self._database, terms, found.last, size)
                if len(nids) == size:
                    break
        looked_at = 0
        while True:
            for view in await self._views(nids, rooms, marks):
                if len(found.views) == limit:
                    return found
                found.last = view.nid
                if await self._shows(session, query, view, rooms, lookings):
                    found.views.append(view)
            if len(nids) < size:
                found.more = False
                return found
            found.last = nids[-1]
            looked_at += size
            if looked_at >= _MOST_LOOKED_AT:
                return found
            size = _AT_ONCE
            nids = await store.found(self._database, terms, found.last, size)

    async def _narrowing(
        self, query: Query, rooms: Mapping[int, Room], marks: "_Marks"
    ) -> list[store.Words]:
        """What the index knows of what is wanted, beside the words."""
        terms = [store.Words([f"k{KEYS[key][1]}" for key in query.keys])]
        if marks.group is not None:
            kind, nid = marks.group
            terms.append(store.Words([f"{kind}{nid}"]))
        if len(rooms) <= _MOST_ROOMS:
            terms.append(store.Words([f"r{nid}" for nid in rooms]))
        if query.filter.senders is not None:
            senders = await self._names.nids(list(query.filter.senders)[:_MOST_ROOMS])
            terms.append(store.Words([f"s{nid}" for nid in senders.values()] or ["s0"]))
        return terms

    async def _views(
        self, nids: Sequence[int], rooms: Mapping[int, Room], marks: "_Marks"
    ) -> list[EventView]:
        """The events of these rooms that have the marks, highest number first."""
        rows = await event_rows(self._database, nids)
        by_room: dict[int, list[int]] = {}
        for nid, row in rows.items():
            if row.room_nid in rooms and not row.flags & REDACTED and marks.groups(row):
                by_room.setdefault(row.room_nid, []).append(nid)
        views: dict[int, EventView] = {}
        for room_nid, mine in by_room.items():
            views |= await self._timeline.views(mine, rooms[room_nid].rules)
        return [views[nid] for nid in nids if nid in views and views[nid].type in marks.types]

    async def _shows(
        self,
        session: Session,
        query: Query,
        view: EventView,
        rooms: Mapping[int, Room],
        lookings: dict[int, Looking],
    ) -> bool:
        looking = lookings.get(view.room_nid)
        if looking is None:
            try:
                looking = await self._history.look(session, rooms[view.room_nid].room_id)
            except MatrixError:
                # Sent away without ever having been in it.
                return False
            lookings[view.room_nid] = looking
        if looking.reader.copy(view, looking.room.rules) is not view:
            # What an erased user said is not to be guessed by its words.
            return False
        await looking.reader.ready([view])
        return looking.shows(view, query.filter)

    async def _context(self, looking: Looking, view: EventView, query: Query) -> bytes:
        if query.before is None or query.after is None:
            return b""
        history, pos = self._history, view.pos or 0
        everything = EventFilter.parse({})
        start, end = pos - 1, pos
        before: list[EventView] = []
        after: list[EventView] = []
        if query.before:
            limit = min(query.before, _MOST_CONTEXT)
            page = await history.page(
                looking, everything, pos=pos - 1, to=None, limit=limit, backwards=True
            )
            before = page.views
            start = (before[-1].pos or 0) - 1 if before else start
        if query.after:
            limit = min(query.after, _MOST_CONTEXT)
            page = await history.page(
                looking, everything, pos=pos, to=None, limit=limit, backwards=False
            )
            after = page.views
            end = (after[-1].pos or 0) if after else end
        parts = [
            b'"events_before":' + await history.whole_list(looking, before),
            b'"events_after":' + await history.whole_list(looking, after),
            b'"start":"%b"' % self._timelines.room_token(start).encode(),
            b'"end":"%b"' % self._timelines.room_token(end).encode(),
        ]
        if query.profiles:
            members = await history.senders(looking, [*before, view, *after], pos)
            parts.append(b'"profile_info":' + canonical.encode(_profiles(members)))
        return b',"context":{%b}' % b",".join(parts)

    async def _groups(self, query: Query, found: _Found, rooms: Mapping[int, Room]) -> JsonObject:
        groups: JsonObject = {}
        for key in sorted(query.groups):
            parts: OrderedDict[str, JsonObject] = OrderedDict()
            for view in found.views:
                name = rooms[view.room_nid].room_id if key == "room_id" else view.sender
                group = parts.setdefault(name, {"order": len(parts) + 1, "results": []})
                group["results"].append(view.event_id)
                if found.more:
                    nid = view.room_nid
                    if key == "sender":
                        nid = (await self._names.nids([view.sender]))[view.sender]
                    group["next_batch"] = f"q1_{view.nid}_{key[0]}{nid}"
            groups[key] = dict(parts)
        return groups

    async def _states(self, lookings: Mapping[int, Looking], found: _Found) -> bytes:
        parts = []
        for room_nid in {view.room_nid for view in found.views}:
            looking = lookings[room_nid]
            state = self._history.json_list(looking, await self._history.state(looking))
            parts.append(canonical.encode(looking.room.room_id) + b":" + state)
        return b",".join(parts)


def _by_room(views: Collection[EventView]) -> dict[int, list[EventView]]:
    found: dict[int, list[EventView]] = {}
    for view in views:
        found.setdefault(view.room_nid, []).append(view)
    return found


def _rank(view: EventView, whole: set[str]) -> float:
    """How well an event that has been found fits: by the share of the words that it has whole."""
    name = FIELDS.get(view.type, ("", ""))[0]
    text = content_of(view).get(name)
    if not isinstance(text, str) or not whole:
        return 0.0
    held = words.written(text)
    return round(len(whole & set(held)) / len(whole) + 1 / (10 + len(held)), 6)


def _profiles(members: Collection[EventView]) -> JsonObject:
    shown: JsonObject = {}
    for view in members:
        content = content_of(view)
        if view.state_key is not None:
            shown[view.state_key] = {
                key: content[key]
                for key in ("displayname", "avatar_url")
                if isinstance(content.get(key), str)
            }
    return shown


def _token(nid: int, start: str | None) -> str:
    """Where the next page begins, of the group that this one was of."""
    match = _TOKEN.fullmatch(start) if start is not None else None
    if match is not None and match.group(2):
        return f"q1_{nid}_{match.group(2)}{match.group(3)}"
    return f"q1_{nid}"
