"""The published room directory, page by page.

Owns its tokens, its search and the entries that clients see. A page begins where a token points in
the directory's order, whether or not the room that stood there still does, so rooms that come, go
or grow never shift others in or out of a page. What one request looks at is bounded: a search that
has looked at enough rooms ends its page there, and its token goes on from the last one.
spec: client-server-api#published-room-directory
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol
from unicodedata import normalize

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.runtime.clock import Clock
from storage.engine import Database
from storage.public_rooms import (
    Place,
    Searched,
    listed_after,
    listed_before,
    listed_count,
    searched_after,
    searched_before,
)
from storage.rooms import rooms, summaries
from storage.schema import RoomSummaryRow

MOST_ROOMS = 100
MOST_SEARCHED = 10_000
_SEARCHED_AT_ONCE = 500
_MAX_TERM = 1_000
_MOST_COUNTED = 1_000_000
_COUNT_SECONDS = 60.0
_TOP: Place = (2**53, 0)
_TOKEN = re.compile(r"p1_([fb])_(\d{1,16})_(\d{1,18})")


@dataclass(frozen=True, slots=True)
class DirectoryQuery:
    """What a client wants of the directory: `room_types` None for all, holding None for plain."""

    limit: int | None = None
    since: str | None = None
    term: str | None = None
    room_types: frozenset[str | None] | None = None


@dataclass(slots=True)
class _Page:
    """Room numbers in the order of the walk, and where the walk goes on (None: at its end)."""

    found: list[int]
    rest: Place | None


class _Read(Protocol):
    async def __call__(self, db: Database, place: Place, limit: int) -> list[Searched]: ...


class PublicRooms:
    """See the module."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._count = 0
        self._counted_until = 0.0

    async def page(self, query: DirectoryQuery) -> JsonObject:
        """A page in the form of the reply.

        Raises `MatrixError` M_INVALID_PARAM for a token that is none, or a search term beyond
        measure. spec: client-server-api#post_matrixclientv3publicrooms
        """
        place, backwards = _parsed(query.since) if query.since else (_TOP, False)
        limit = min(query.limit or MOST_ROOMS, MOST_ROOMS)
        term = _folded(query.term.strip()) if query.term else ""
        if len(term) > _MAX_TERM:
            raise MatrixError.invalid_param(f"generic_search_term: over {_MAX_TERM} characters")
        if term or query.room_types is not None:
            read = searched_before if backwards else searched_after
            page = await self._searched(read, place, limit, term, query.room_types)
            by_nid = await summaries(self._database, page.found)
            rows = [by_nid[nid] for nid in page.found]
        else:
            listed = listed_before if backwards else listed_after
            rows = await listed(self._database, place, limit + 1)
            page = _Page([row.room_nid for row in rows[:limit]], None)
            if len(rows) > limit:
                page.rest = _place(rows[limit - 1])
            elif not query.since:
                self._counted(len(rows))
            rows = rows[:limit]
        reply: JsonObject = {}
        first: Place | None = None
        last: Place | None = page.rest
        if backwards:
            rows.reverse()
            first = page.rest
            last = _place(rows[-1]) if rows else (place[0], place[1] + 1)
        elif query.since:
            first = _place(rows[0]) if rows else (place[0], max(place[1] - 1, 0))
        if first is not None:
            reply["prev_batch"] = _token("b", first)
        if last is not None:
            reply["next_batch"] = _token("f", last)
        reply["chunk"] = await self._entries(rows)
        reply["total_room_count_estimate"] = await self._estimate()
        return reply

    async def page_of(self, room_nids: Collection[int], query: DirectoryQuery) -> JsonObject:
        """A page of given rooms, the largest first, with the same filters and tokens.

        `room_nids` are all read at once. Raises `MatrixError` M_INVALID_PARAM as `page` does.
        """
        place, backwards = _parsed(query.since) if query.since else (_TOP, False)
        limit = min(query.limit or MOST_ROOMS, MOST_ROOMS)
        term = _folded(query.term.strip()) if query.term else ""
        rows = [
            row
            for row in (await summaries(self._database, room_nids)).values()
            if (query.room_types is None or row.room_type in query.room_types)
            and (not term or any(term in _folded(text or "") for text in (row.name, row.topic)))
        ]
        rows.sort(key=_place, reverse=True)
        total = len(rows)
        start = sum(_place(row) >= place for row in rows) if query.since else 0
        if backwards:
            start = max(0, sum(_place(row) > place for row in rows) - limit)
        shown = rows[start : start + limit]
        reply: JsonObject = {"chunk": await self._entries(shown)}
        if start > 0 and shown:
            reply["prev_batch"] = _token("b", _place(shown[0]))
        if start + limit < total and shown:
            reply["next_batch"] = _token("f", _place(shown[-1]))
        reply["total_room_count_estimate"] = total
        return reply

    async def _searched(
        self,
        read: _Read,
        place: Place,
        limit: int,
        term: str,
        room_types: Collection[str | None] | None,
    ) -> _Page:
        found: list[int] = []
        for _ in range(MOST_SEARCHED // _SEARCHED_AT_ONCE):
            rows = await read(self._database, place, _SEARCHED_AT_ONCE)
            for row in rows:
                if (room_types is None or row.room_type in room_types) and _holds(row, term):
                    if len(found) == limit:
                        return _Page(found, place)
                    found.append(row.room_nid)
                place = (row.joined, row.room_nid)
            if len(rows) < _SEARCHED_AT_ONCE:
                return _Page(found, None)
        return _Page(found, place)

    async def _entries(self, rows: Collection[RoomSummaryRow]) -> list[JsonObject]:
        listed = await rooms(self._database, [row.room_nid for row in rows])
        return [entry_of(listed[row.room_nid].room_id, row) for row in rows]

    def _counted(self, count: int) -> None:
        self._count = count
        self._counted_until = self._clock.monotonic() + _COUNT_SECONDS

    async def _estimate(self) -> int:
        if self._clock.monotonic() >= self._counted_until:
            self._counted(await listed_count(self._database, _MOST_COUNTED))
        return self._count


def entry_of(room_id: str, row: RoomSummaryRow) -> JsonObject:
    """What the directory, and whoever else lists rooms, says of a room."""
    entry: JsonObject = {
        "room_id": room_id,
        "num_joined_members": row.joined,
        "world_readable": row.visibility == "world_readable",
        "guest_can_join": row.guest_access == "can_join",
        "join_rule": row.join_rule,
    }
    for key, value in (
        ("name", row.name),
        ("topic", row.topic),
        ("avatar_url", row.avatar),
        ("canonical_alias", row.alias),
        ("room_type", row.room_type),
    ):
        if value is not None:
            entry[key] = value
    return entry


def _holds(row: Searched, term: str) -> bool:
    return not term or any(
        text is not None and term in _folded(text) for text in (row.name, row.topic, row.alias)
    )


def _folded(text: str) -> str:
    """Text for comparison: without case, and one form for what Unicode writes in several."""
    if text.isascii():
        return text.lower()
    return normalize("NFKC", normalize("NFKC", text).casefold())


def _place(row: RoomSummaryRow) -> Place:
    return row.joined, row.room_nid


def _token(direction: str, place: Place) -> str:
    return f"p1_{direction}_{place[0]}_{place[1]}"


def _parsed(text: str) -> tuple[Place, bool]:
    """Where a token points, and whether it goes backwards."""
    match = _TOKEN.fullmatch(text)
    if match is None:
        raise MatrixError.invalid_param("since: this is not a token of this server")
    return (int(match.group(2)), int(match.group(3))), match.group(1) == "b"
