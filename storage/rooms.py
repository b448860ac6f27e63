"""Reading rooms: their rows, heads, summaries and aliases."""

from collections import defaultdict
from collections.abc import Collection

from storage.changes import Change, Do
from storage.engine import Database
from storage.schema import AliasRow, JoinUnderWayRow, RoomHeadRow, RoomRow, RoomSummaryRow


async def rooms(db: Database, room_nids: Collection[int]) -> dict[int, RoomRow]:
    """Rooms by number."""
    rows = await db.fetch(
        "SELECT room_nid, room_id, version, flags, created_ts FROM rooms WHERE room_nid IN (??)",
        room_nids,
    )
    return {row[0]: RoomRow(*row) for row in rows}


async def rooms_by_id(db: Database, room_ids: Collection[str]) -> dict[str, RoomRow]:
    """Rooms by room id."""
    rows = await db.fetch(
        "SELECT room_nid, room_id, version, flags, created_ts FROM rooms WHERE room_id IN (??)",
        room_ids,
    )
    return {row[1]: RoomRow(*row) for row in rows}


async def heads(db: Database, room_nids: Collection[int]) -> dict[int, RoomHeadRow]:
    """Heads by room."""
    rows = await db.fetch(
        "SELECT room_nid, extremities, snap_nid, depth, last_pos FROM room_heads"
        " WHERE room_nid IN (??)",
        room_nids,
    )
    return {row[0]: RoomHeadRow(*row) for row in rows}


async def summaries(db: Database, room_nids: Collection[int]) -> dict[int, RoomSummaryRow]:
    """Summaries by room."""
    rows = await db.fetch(
        "SELECT room_nid, name, topic, avatar, alias, room_type, join_rule, visibility,"
        " encryption, guest_access, joined, invited, published FROM room_summary"
        " WHERE room_nid IN (??)",
        room_nids,
    )
    return {row[0]: RoomSummaryRow(*row) for row in rows}


async def aliases(db: Database, texts: Collection[str]) -> dict[str, AliasRow]:
    """Aliases by their text."""
    rows = await db.fetch(
        "SELECT alias, room_nid, creator_nid FROM aliases WHERE alias IN (??)", texts
    )
    return {row[0]: AliasRow(*row) for row in rows}


async def aliases_of(db: Database, room_nids: Collection[int]) -> dict[int, list[AliasRow]]:
    """By room the aliases that lead to it, in order of their text."""
    rows = await db.fetch(
        "SELECT alias, room_nid, creator_nid FROM aliases WHERE room_nid IN (??) ORDER BY alias",
        room_nids,
    )
    found: dict[int, list[AliasRow]] = defaultdict(list)
    for row in rows:
        found[row[1]].append(AliasRow(*row))
    return dict(found)


async def changed_since(db: Database, room_nids: Collection[int], pos: int) -> set[int]:
    """Those of the rooms in which an event or a receipt stands after position `pos`."""
    rows = await db.scan(
        "SELECT room_nid FROM room_heads WHERE room_nid IN (??) AND last_pos > ?"
        " UNION SELECT room_nid FROM receipts WHERE room_nid IN (??) AND pos > ?",
        room_nids,
        pos,
        room_nids,
        pos,
    )
    return {room_nid for (room_nid,) in rows}


async def joins_under_way(db: Database) -> list[JoinUnderWayRow]:
    """The joins through other servers that have not ended."""
    rows = await db.scan("SELECT room_id, user_id, args FROM joins_under_way")
    return [JoinUnderWayRow(*row) for row in rows]


def state_of_headless_forgotten(room_nid: int) -> list[Change]:
    """Drop what a join that did not end has written of others' state in a room without a head."""
    return [
        Do("DELETE FROM current_state WHERE room_nid = ?", (room_nid,)),
        Do("DELETE FROM memberships WHERE room_nid = ? AND pos = 0", (room_nid,)),
    ]
