"""Reading and removing what is noted of sticky events."""

from collections.abc import Collection

from storage.changes import Change, Do
from storage.engine import Database
from storage.schema import StickyEventRow


async def told_between(
    db: Database, room_nid: int, after: int, until: int, now: int, limit: int
) -> list[tuple[int, int]]:
    """(position, event) of up to `limit` of a room's sticky events told in (after, until].

    The last comes first.
    """
    return await db.fetch(
        "SELECT pos, event_nid FROM sticky_events WHERE room_nid = ? AND pos > ? AND pos <= ?"
        " AND until > ? ORDER BY pos DESC LIMIT ?",
        room_nid,
        after,
        until,
        now,
        limit,
    )


async def first_told(
    db: Database, room_nids: Collection[int], after: int, until: int, now: int, limit: int
) -> list[tuple[int, int, int]]:
    """(position, room, event) of the rooms' sticky events told in (after, until], up to `limit`.

    In order of position.
    """
    return await db.fetch(
        "SELECT pos, room_nid, event_nid FROM sticky_events WHERE room_nid IN (??) AND pos > ?"
        " AND pos <= ? AND until > ? ORDER BY pos, event_nid LIMIT ?",
        room_nids,
        after,
        until,
        now,
        limit,
    )


async def sticky_until(db: Database, event_nids: Collection[int]) -> dict[int, int]:
    """Until when those of the events are sticky that are or were."""
    return dict(
        await db.fetch(
            "SELECT event_nid, until FROM sticky_events WHERE event_nid IN (??)", event_nids
        )
    )


async def own_in(db: Database, room_nid: int, now: int, limit: int) -> dict[int, int]:
    """Until when our own events of a room are sticky that are, of up to `limit` the last ones."""
    rows = await db.scan(
        "SELECT event_nid, until FROM sticky_events WHERE room_nid = ? AND pos > 0 AND own = 1"
        " AND until > ? ORDER BY pos DESC LIMIT ?",
        room_nid,
        now,
        limit,
    )
    return dict(reversed([(nid, until) for nid, until in rows]))


async def own_between(
    db: Database, room_nid: int, after: int, until: int, now: int, limit: int
) -> list[tuple[int, int]]:
    """(position, event) of our own events in (after, until] of a room that are sticky, in order."""
    rows = await db.scan(
        "SELECT pos, event_nid FROM sticky_events WHERE room_nid = ? AND pos > ? AND pos <= ?"
        " AND own = 1 AND until > ? ORDER BY pos DESC LIMIT ?",
        room_nid,
        after,
        until,
        now,
        limit,
    )
    return [(pos, nid) for pos, nid in reversed(rows)]


async def all_sticky(db: Database, now: int) -> list[tuple[int, int, int]]:
    """(room, position, until when) of all events that are sticky."""
    rows = await db.scan("SELECT room_nid, pos, until FROM sticky_events WHERE until > ?", now)
    return [(room_nid, pos, until) for room_nid, pos, until in rows]


async def held_in(db: Database, room_nid: int, now: int, limit: int) -> list[StickyEventRow]:
    """Up to `limit` of a room's sticky events that are held back."""
    rows = await db.fetch(
        "SELECT event_nid, room_nid, pos, until, own FROM sticky_events"
        " WHERE room_nid = ? AND pos = 0 AND until > ? ORDER BY event_nid LIMIT ?",
        room_nid,
        now,
        limit,
    )
    return [StickyEventRow(*row) for row in rows]


def past(now: int) -> Change:
    """Forget those that are sticky no more."""
    return Do("DELETE FROM sticky_events WHERE until <= ?", (now,))
