"""Account data, receipts and filters of users, and the work that waits to be done.

Reads only: what is written here are whole rows. What does not exist is absent from the answers.
"""

from collections.abc import Collection

from storage.engine import Database
from storage.schema import AccountDataRow, FilterRow, JobRow, ReceiptRow


async def account_data_of(db: Database, user_nid: int, room_nid: int, type_: str) -> bytes | None:
    """The content (JSON) of one piece of account data; `room_nid` 0 for no room."""
    rows = await db.fetch(
        "SELECT content FROM account_data WHERE user_nid = ? AND room_nid = ? AND type = ?",
        user_nid,
        room_nid,
        type_,
    )
    return rows[0][0] if rows else None


async def account_data_since(db: Database, user_nid: int, pos: int) -> list[AccountDataRow]:
    """A user's account data that changed after `pos`, in order of position."""
    rows = await db.fetch(
        "SELECT user_nid, room_nid, type, content, pos FROM account_data"
        " WHERE user_nid = ? AND pos > ? ORDER BY pos",
        user_nid,
        pos,
    )
    return [AccountDataRow(*row) for row in rows]


async def receipts_since(
    db: Database, room_nids: Collection[int], pos: int
) -> dict[int, list[ReceiptRow]]:
    """Receipts of rooms that moved after `pos`, in order of position."""
    rows = await db.scan(
        "SELECT room_nid, user_nid, kind, thread, event_id, event_pos, ts, pos FROM receipts"
        " WHERE room_nid IN (??) AND pos > ? ORDER BY pos",
        room_nids,
        pos,
    )
    found: dict[int, list[ReceiptRow]] = {}
    for row in rows:
        found.setdefault(row[0], []).append(ReceiptRow(*row))
    return found


async def receipts_of(
    db: Database, user_nid: int, room_nid: int
) -> dict[tuple[int, str], ReceiptRow]:
    """A user's receipts in a room by kind and thread."""
    rows = await db.fetch(
        "SELECT room_nid, user_nid, kind, thread, event_id, event_pos, ts, pos FROM receipts"
        " WHERE room_nid = ? AND user_nid = ?",
        room_nid,
        user_nid,
    )
    return {(row[2], row[3]): ReceiptRow(*row) for row in rows}


async def read_up_to(db: Database, user_nid: int, room_nid: int) -> int:
    """The position of the furthest event that the user's receipts name in a room's main part.

    Public or private, without a thread or of the thread `main`; 0 when there is none.
    """
    rows = await db.fetch(
        "SELECT max(event_pos) FROM receipts WHERE room_nid = ? AND user_nid = ?"
        " AND thread IN (??)",
        room_nid,
        user_nid,
        ("", "main"),
    )
    return rows[0][0] or 0


async def filters_of(
    db: Database, user_nid: int, filter_nids: Collection[int]
) -> dict[int, FilterRow]:
    """A user's stored filters by number."""
    rows = await db.fetch(
        "SELECT user_nid, filter_nid, json FROM filters WHERE user_nid = ? AND filter_nid IN (??)",
        user_nid,
        filter_nids,
    )
    return {row[1]: FilterRow(*row) for row in rows}


async def jobs_due(db: Database, now: int, limit: int) -> list[JobRow]:
    """At most `limit` jobs that are due, the longest due first."""
    rows = await db.fetch(
        "SELECT job_nid, kind, args, run_at, tries FROM jobs WHERE run_at <= ?"
        " ORDER BY run_at, job_nid LIMIT ?",
        now,
        limit,
    )
    return [JobRow(*row) for row in rows]


async def next_job_at(db: Database) -> int | None:
    """When the next job is due, None when there is none."""
    return (await db.fetch("SELECT min(run_at) FROM jobs"))[0][0]
