"""Reading the published room directory.

Its order is that of an index: most joined members first, newer rooms first among equals. A place in
it is the (joined, room_nid) of a row, there or not. Listed is what is published, not empty, and
open to strangers in some way; the index holds exactly these rows.
"""

from typing import Any, NamedTuple

from storage.engine import Database
from storage.schema import RoomSummaryRow

Place = tuple[int, int]
"""(joined, room_nid)"""


class Searched(NamedTuple):
    """What a search looks at; name and topic hold the first 1,000 characters."""

    joined: int
    room_nid: int
    room_type: str | None
    name: str | None
    topic: str | None
    alias: str | None


async def listed_after(db: Database, place: Place, limit: int) -> list[RoomSummaryRow]:
    """At most `limit` listed rooms that follow a place, in the directory's order."""
    rows = await db.fetch(
        "SELECT room_nid, name, topic, avatar, alias, room_type, join_rule, visibility,"
        " encryption, guest_access, joined, invited, published FROM room_summary"
        " WHERE published = 1 AND joined > 0"
        " AND (join_rule NOT IN ('invite', 'private') OR visibility = 'world_readable')"
        " AND (joined, room_nid) < (?, ?) ORDER BY joined DESC, room_nid DESC LIMIT ?",
        *place,
        limit,
    )
    return [RoomSummaryRow(*row) for row in rows]


async def listed_before(db: Database, place: Place, limit: int) -> list[RoomSummaryRow]:
    """At most `limit` listed rooms that precede a place, the nearest first."""
    rows = await db.fetch(
        "SELECT room_nid, name, topic, avatar, alias, room_type, join_rule, visibility,"
        " encryption, guest_access, joined, invited, published FROM room_summary"
        " WHERE published = 1 AND joined > 0"
        " AND (join_rule NOT IN ('invite', 'private') OR visibility = 'world_readable')"
        " AND (joined, room_nid) > (?, ?) ORDER BY joined, room_nid LIMIT ?",
        *place,
        limit,
    )
    return [RoomSummaryRow(*row) for row in rows]


async def searched_after(db: Database, place: Place, limit: int) -> list[Searched]:
    """Like `listed_after`, with what a search needs; off the loop."""
    rows = await db.scan(
        "SELECT joined, room_nid, room_type, substr(name, 1, 1000), substr(topic, 1, 1000), alias"
        " FROM room_summary WHERE published = 1 AND joined > 0"
        " AND (join_rule NOT IN ('invite', 'private') OR visibility = 'world_readable')"
        " AND (joined, room_nid) < (?, ?) ORDER BY joined DESC, room_nid DESC LIMIT ?",
        *place,
        limit,
    )
    return _searched(rows)


async def searched_before(db: Database, place: Place, limit: int) -> list[Searched]:
    """Like `listed_before`, with what a search needs; off the loop."""
    rows = await db.scan(
        "SELECT joined, room_nid, room_type, substr(name, 1, 1000), substr(topic, 1, 1000), alias"
        " FROM room_summary WHERE published = 1 AND joined > 0"
        " AND (join_rule NOT IN ('invite', 'private') OR visibility = 'world_readable')"
        " AND (joined, room_nid) > (?, ?) ORDER BY joined, room_nid LIMIT ?",
        *place,
        limit,
    )
    return _searched(rows)


async def listed_count(db: Database, most: int) -> int:
    """How many rooms are listed, at most `most`; off the loop."""
    rows = await db.scan(
        "SELECT count(*) FROM (SELECT room_nid FROM room_summary"
        " WHERE published = 1 AND joined > 0"
        " AND (join_rule NOT IN ('invite', 'private') OR visibility = 'world_readable')"
        " AND joined < ? LIMIT ?) AS listed",
        2**62,
        most,
    )
    return int(rows[0][0])


def _searched(rows: list[tuple[Any, ...]]) -> list[Searched]:
    return [Searched(*row) for row in rows]
