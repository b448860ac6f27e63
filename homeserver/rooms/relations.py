"""Children of events and threads of rooms, page by page; and which relations may be sent.

Owns the answers of /relations and /threads, and what a local user may relate to what: no second
equal annotation, no thread on what is a child itself. What is aggregated of children is in
`aggregations.py`, the rows are in `related.py`.
spec: client-server-api#forming-relationships-between-events
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import NamedTuple

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.filters import EventFilter
from homeserver.matrix.relations import ANNOTATION, THREAD, Relation, relation_of
from homeserver.rooms.actor import Room
from homeserver.rooms.history import History, Looking, content_of
from homeserver.rooms.timeline import NEWEST, OLDEST, Timeline
from homeserver.rooms.views import EventView
from homeserver.streams.numbers import Names
from homeserver.streams.tokens import Timelines
from storage import relations as store
from storage.engine import Database

DEPTH = 3
_MOST_SHOWN = 100
_MOST_LOOKED_AT = 2_000
_MOST_DESCENDANTS = 5_000
_ALL = EventFilter.parse({})


class Wanted(NamedTuple):
    """Which children: of one event, perhaps of one relation and one event type."""

    event_id: str
    rel_type: str | None = None
    event_type: str | None = None
    recurse: bool = False


class Stretch(NamedTuple):
    """Where a page begins (`start`) and at most ends (`to`), its length, and its direction."""

    start: str | None
    to: str | None
    limit: int
    backwards: bool = True


class Relations:
    """See the module."""

    def __init__(
        self,
        database: Database,
        history: History,
        timeline: Timeline,
        names: Names,
        timelines: Timelines,
    ) -> None:
        self._database = database
        self._history = history
        self._timeline = timeline
        self._names = names
        self._timelines = timelines

    async def children(self, looking: Looking, wanted: Wanted, stretch: Stretch) -> bytes:
        """The children of an event that the user may see.

        Raises `MatrixError` M_NOT_FOUND for a parent that isn't there or may not be read.
        spec: client-server-api#get_matrixclientv1roomsroomidrelationseventid
        """
        await self._history.event(looking, wanted.event_id)
        start, to = self._bounds(stretch)
        views, rest = await self._page(looking, wanted, stretch, start, to)
        parts = [b'"chunk":' + await self._history.whole_list(looking, views)]
        if rest is not None:
            parts.append(b'"next_batch":"%b"' % self._timelines.room_token(rest).encode())
        if stretch.start is not None:
            parts.append(b'"prev_batch":"%b"' % self._timelines.room_token(start).encode())
        if wanted.recurse:
            parts.append(b'"recursion_depth":%d' % DEPTH)
        return b"{%b}" % b",".join(parts)

    async def threads(
        self, looking: Looking, *, participated: bool, start: str | None, limit: int
    ) -> bytes:
        """The roots of the room's threads, those with the latest events first.

        spec: client-server-api#get_matrixclientv1roomsroomidthreads
        """
        pos = NEWEST if start is None else self._timelines.parse_room(start, "from")
        if looking.until is not None:
            pos = min(pos, looking.until)
        limit = max(1, min(limit, _MOST_SHOWN))
        roots: list[EventView] = []
        rest: int | None = pos
        looked_at = 0
        while rest is not None and len(roots) < limit and looked_at < _MOST_LOOKED_AT:
            rows = await store.threads(self._database, looking.room.nid, rest, limit)
            looked_at += len(rows)
            rest = rows[-1][0] - 1 if len(rows) == limit else None
            nids = [nid for _, _, nid in rows if nid is not None]
            views = await self._timeline.views(nids, looking.room.rules)
            await looking.reader.ready(views.values())
            own = await self._own(looking, views.values()) if participated else None
            for last_pos, root_id, nid in rows:
                view = views.get(nid) if nid is not None else None
                if view is None or not looking.reader.sees(view):
                    continue
                if own is not None and root_id not in own:
                    continue
                if len(roots) == limit:
                    rest = last_pos
                    break
                ignores = looking.ignores(view)
                roots.append(view.erased(looking.room.rules) if ignores else view)
        parts = [b'"chunk":' + await self._history.whole_list(looking, roots)]
        if rest is not None:
            parts.append(b'"next_batch":"%b"' % self._timelines.room_token(rest).encode())
        return b"{%b}" % b",".join(parts)

    async def _own(self, looking: Looking, roots: Collection[EventView]) -> set[str]:
        """The ids of those roots in whose threads the user takes part."""
        session = looking.session
        ids = {view.event_id for view in roots}
        own = {view.event_id for view in roots if view.sender == session.user_id}
        return own | await store.participated(
            self._database, looking.room.nid, ids, session.user_nid
        )

    def _bounds(self, stretch: Stretch) -> tuple[int, int]:
        backwards = stretch.backwards
        start = NEWEST if backwards else OLDEST
        to = OLDEST if backwards else NEWEST
        if stretch.start is not None:
            start = self._timelines.parse_room(stretch.start, "from")
        if stretch.to is not None:
            to = self._timelines.parse_room(stretch.to, "to")
        return start, to

    async def _page(
        self, looking: Looking, wanted: Wanted, stretch: Stretch, pos: int, to: int
    ) -> tuple[list[EventView], int | None]:
        """The page's events, and the position from which the next one goes on."""
        backwards = stretch.backwards
        limit = max(1, min(stretch.limit, _MOST_SHOWN))
        if backwards and looking.until is not None:
            pos = min(pos, looking.until)
        type_nid: int | None = None
        if wanted.event_type is not None:
            found = await self._names.find([wanted.event_type])
            type_nid = found.get(wanted.event_type, -1)
        family = await self._family(looking.room, wanted, type_nid) if wanted.recurse else None
        shown: list[EventView] = []
        for _ in range(_MOST_LOOKED_AT // (limit + 1) + 1):
            after, until = (to, pos) if backwards else (pos, to)
            if family is None:
                rows = await store.page(
                    self._database,
                    looking.room.nid,
                    wanted.event_id,
                    wanted.rel_type,
                    type_nid,
                    after,
                    until,
                    limit + 1,
                    newest_first=backwards,
                )
            else:
                rows = [row for row in family if after < row[0] <= until]
                rows.sort(reverse=backwards)
                rows = rows[: limit + 1]
            views = await self._timeline.views([nid for _, nid in rows], looking.room.rules)
            await looking.reader.ready(views.values())
            for here, nid in rows:
                if len(shown) == limit:
                    return shown, pos
                pos = here - 1 if backwards else here
                if nid in views and looking.shows(views[nid], _ALL):
                    shown.append(views[nid])
            if len(rows) <= limit:
                return shown, None
        return shown, pos

    async def _family(
        self, room: Room, wanted: Wanted, type_nid: int | None
    ) -> list[tuple[int, int]]:
        """(position, number) of the children, their children, and so on `DEPTH` levels down."""
        found: dict[int, store.Child] = {}
        parents = {wanted.event_id}
        for _ in range(DEPTH):
            left = _MOST_DESCENDANTS - len(found)
            if not parents or left <= 0:
                break
            level = await store.children(self._database, room.nid, parents, left)
            parents = {child.event_id for child in level if child.event_nid not in found}
            found |= {child.event_nid: child for child in level}
        return [
            (child.pos, child.event_nid)
            for child in found.values()
            if wanted.rel_type in (None, child.rel_type) and type_nid in (None, child.type_nid)
        ]


class Relating:
    """What clients may relate to what, asked before they do."""

    def __init__(self, database: Database, timeline: Timeline, names: Names) -> None:
        self._database = database
        self._timeline = timeline
        self._names = names
        self._annotating: dict[tuple[int, str, str, str, str | None], asyncio.Future[None]] = {}

    @asynccontextmanager
    async def allowed(
        self, user_id: str, room: Room, event_type: str, content: JsonObject
    ) -> AsyncIterator[None]:
        """For as long as the event is being sent; nothing is asked of one without a relation.

        Raises `MatrixError` M_DUPLICATE_ANNOTATION, and M_UNKNOWN for a thread on an event that is
        itself a child. spec: client-server-api#avoiding-duplicate-annotations and
        client-server-api#validation-of-mthread-relationships
        """
        relation = relation_of(content)
        if relation is None or relation.rel_type not in (ANNOTATION, THREAD):
            yield
            return
        if relation.rel_type == THREAD:
            await self._check_root(room, relation)
            yield
            return
        # Two equal ones at once: the second looks only after the first was stored or failed.
        mark = (room.nid, relation.parent_id, user_id, event_type, relation.key)
        while (other := self._annotating.get(mark)) is not None:
            await asyncio.wait([other])
        mine = self._annotating[mark] = asyncio.get_running_loop().create_future()
        try:
            await self._check_annotation(user_id, room, event_type, relation)
            yield
        finally:
            del self._annotating[mark]
            mine.set_result(None)

    async def _check_root(self, room: Room, relation: Relation) -> None:
        root = await self._timeline.event(room, relation.parent_id)
        if root is not None and relation_of(content_of(root)) is not None:
            raise MatrixError(
                "M_UNKNOWN", "A thread can't begin at an event that relates to another", 400
            )

    async def _check_annotation(
        self, user_id: str, room: Room, event_type: str, relation: Relation
    ) -> None:
        key_hash = relation.key_hash
        if key_hash is None:
            return
        nids = await self._names.nids([user_id, event_type])
        if await store.is_annotated(
            self._database,
            room.nid,
            relation.parent_id,
            nids[user_id],
            nids[event_type],
            key_hash,
        ):
            raise MatrixError(
                "M_DUPLICATE_ANNOTATION", "You have annotated the event with this already", 400
            )
