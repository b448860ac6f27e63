"""Application services: their registrations and cursors, and what concerns their users.

What an application service is interested in is not decided here.
"""

from collections.abc import Collection

from storage.changes import Change, Do
from storage.engine import Database
from storage.schema import AppserviceRow


async def appservices(db: Database) -> dict[str, AppserviceRow]:
    """All application services by id."""
    rows = await db.fetch(
        "SELECT id, text, configured, acked_pos, pending_pos, txn_nid FROM appservices"
    )
    return {row[0]: AppserviceRow(*row) for row in rows}


def cursor_moved(service_id: str, acked_pos: int, pending_pos: int, txn_nid: int) -> Change:
    """Note how far a service is; it may have been removed meanwhile."""
    return Do(
        "UPDATE appservices SET acked_pos = ?, pending_pos = ?, txn_nid = ? WHERE id = ?",
        (acked_pos, pending_pos, txn_nid, service_id),
    )


async def joined_at(db: Database, user_nids: Collection[int], pos: int) -> list[tuple[int, int]]:
    """(room, user) of the local users who were joined at position `pos`."""
    rows = await db.scan(
        "SELECT room_nid, user_nid, pos, membership FROM membership_log"
        " WHERE user_nid IN (??) AND pos <= ?",
        user_nids,
        pos,
    )
    latest: dict[tuple[int, int], tuple[int, int]] = {}
    for room_nid, user_nid, at, membership in rows:
        if latest.get((room_nid, user_nid), (-1, 0))[0] < at:
            latest[room_nid, user_nid] = (at, membership)
    return [key for key, (_, membership) in latest.items() if membership == 1]


async def rooms_since(db: Database, user_nids: Collection[int], pos: int) -> set[int]:
    """The rooms in which a membership of these local users moved after position `pos`."""
    rows = await db.scan(
        "SELECT room_nid FROM membership_log WHERE user_nid IN (??) AND pos > ?", user_nids, pos
    )
    return {room_nid for (room_nid,) in rows}


async def events_in(
    db: Database, room_nids: Collection[int], after: int, until: int
) -> list[tuple[int, int, int]]:
    """(position, room, event number) of the rooms' events in (after, until], in order."""
    rows = await db.scan(
        "SELECT pos, room_nid, event_nid FROM events"
        " WHERE room_nid IN (??) AND pos > ? AND pos <= ? AND (flags & 67) = 0",
        room_nids,
        after,
        until,
    )
    return sorted((pos, room_nid, event_nid) for pos, room_nid, event_nid in rows)


async def room_ids_after(db: Database, room_nid: int, limit: int) -> list[tuple[int, str]]:
    """(number, id) of up to `limit` rooms whose numbers come after this one, in their order."""
    rows = await db.scan(
        "SELECT room_nid, room_id FROM rooms WHERE room_nid > ? ORDER BY room_nid LIMIT ?",
        room_nid,
        limit,
    )
    return [(nid, room_id) for nid, room_id in rows]


async def aliases_after(db: Database, alias: str, limit: int) -> list[tuple[str, int]]:
    """(alias, room) of up to `limit` aliases that come after this one, in their order."""
    rows = await db.scan(
        "SELECT alias, room_nid FROM aliases WHERE alias > ? ORDER BY alias LIMIT ?", alias, limit
    )
    return [(text, room_nid) for text, room_nid in rows]


async def directory_rooms(db: Database, networks: Collection[str]) -> set[int]:
    """The rooms in the directories of these networks."""
    rows = await db.scan("SELECT room_nid FROM appservice_rooms WHERE network IN (??)", networks)
    return {room_nid for (room_nid,) in rows}
