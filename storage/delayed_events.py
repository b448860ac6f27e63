"""Reading events that are to be sent later."""

from storage.engine import Database
from storage.schema import DelayedEventRow


async def delayed_event(db: Database, delay_id: str) -> DelayedEventRow | None:
    """One of them."""
    rows = await db.fetch(
        "SELECT delay_id, user_nid, device_nid, room_nid, type, state_key, content, delay, since,"
        " run_at, sticky_ms FROM delayed_events WHERE delay_id = ?",
        delay_id,
    )
    return DelayedEventRow(*rows[0]) if rows else None


async def delayed_events_of(db: Database, user_nid: int, limit: int) -> list[DelayedEventRow]:
    """Those of a user, the next one first."""
    rows = await db.fetch(
        "SELECT delay_id, user_nid, device_nid, room_nid, type, state_key, content, delay, since,"
        " run_at, sticky_ms FROM delayed_events WHERE user_nid = ? ORDER BY run_at, delay_id"
        " LIMIT ?",
        user_nid,
        limit,
    )
    return [DelayedEventRow(*row) for row in rows]


async def delayed_events_due(db: Database, now: int, limit: int) -> list[DelayedEventRow]:
    """Those whose time (ms) has come, the oldest first."""
    rows = await db.fetch(
        "SELECT delay_id, user_nid, device_nid, room_nid, type, state_key, content, delay, since,"
        " run_at, sticky_ms FROM delayed_events WHERE run_at <= ? ORDER BY run_at LIMIT ?",
        now,
        limit,
    )
    return [DelayedEventRow(*row) for row in rows]


async def next_delayed_at(db: Database) -> int | None:
    """When the next one is due (ms)."""
    rows = await db.fetch("SELECT run_at FROM delayed_events ORDER BY run_at LIMIT 1")
    return rows[0][0] if rows else None
