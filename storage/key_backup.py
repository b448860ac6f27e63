"""Reading and changing key backups: their versions, and the sessions in them, page by page."""

from collections.abc import Collection

from storage.changes import Change, Do
from storage.engine import Database
from storage.schema import BackupKeyRow, BackupRow


async def latest(db: Database, user_nid: int) -> BackupRow | None:
    """The user's last version that was not deleted."""
    rows = await db.fetch(
        "SELECT user_nid, version, algorithm, auth_data, etag, sessions, deleted FROM backups"
        " WHERE user_nid = ? AND deleted = 0 ORDER BY version DESC LIMIT 1",
        user_nid,
    )
    return BackupRow(*rows[0]) if rows else None


async def version(db: Database, user_nid: int, number: int) -> BackupRow | None:
    """One version, unless it was deleted."""
    rows = await db.fetch(
        "SELECT user_nid, version, algorithm, auth_data, etag, sessions, deleted FROM backups"
        " WHERE user_nid = ? AND version = ? AND deleted = 0",
        user_nid,
        number,
    )
    return BackupRow(*rows[0]) if rows else None


async def last_number(db: Database, user_nid: int) -> int:
    """The highest number that a version of the user ever had, 0 before the first."""
    ((number,),) = await db.fetch(
        "SELECT coalesce(max(version), 0) FROM backups WHERE user_nid = ?", user_nid
    )
    return int(number)


async def keys_in(
    db: Database, user_nid: int, number: int, room_id: str, session_ids: Collection[str]
) -> dict[str, BackupKeyRow]:
    """By session, those of these sessions of a room that are in a version."""
    rows = await db.scan(
        "SELECT user_nid, version, room_id, session_id, first_index, forwarded, verified, json"
        " FROM backup_keys WHERE user_nid = ? AND version = ? AND room_id = ?"
        " AND session_id IN (??)",
        user_nid,
        number,
        room_id,
        session_ids,
    )
    return {row[3]: BackupKeyRow(*row) for row in rows}


async def page(
    db: Database, user_nid: int, number: int, after: tuple[str, str], limit: int
) -> list[BackupKeyRow]:
    """Up to `limit` sessions of a version behind a (room id, session id), in that order."""
    rows = await db.scan(
        "SELECT user_nid, version, room_id, session_id, first_index, forwarded, verified, json"
        " FROM backup_keys WHERE user_nid = ? AND version = ? AND (room_id, session_id) > (?, ?)"
        " ORDER BY room_id, session_id LIMIT ?",
        user_nid,
        number,
        *after,
        limit,
    )
    return [BackupKeyRow(*row) for row in rows]


async def page_of_room(
    db: Database, user_nid: int, number: int, room_id: str, after: str, limit: int
) -> list[BackupKeyRow]:
    """`page` of one room, behind a session id."""
    rows = await db.scan(
        "SELECT user_nid, version, room_id, session_id, first_index, forwarded, verified, json"
        " FROM backup_keys WHERE user_nid = ? AND version = ? AND room_id = ? AND session_id > ?"
        " ORDER BY session_id LIMIT ?",
        user_nid,
        number,
        room_id,
        after,
        limit,
    )
    return [BackupKeyRow(*row) for row in rows]


async def count(db: Database, user_nid: int, number: int, room_id: str | None) -> int:
    """How many sessions a version holds, of one room or of all."""
    if room_id is None:
        rows = await db.scan(
            "SELECT count(*) FROM backup_keys WHERE user_nid = ? AND version = ?", user_nid, number
        )
    else:
        rows = await db.scan(
            "SELECT count(*) FROM backup_keys WHERE user_nid = ? AND version = ? AND room_id = ?",
            user_nid,
            number,
            room_id,
        )
    return int(rows[0][0])


def emptied(user_nid: int, number: int, room_id: str | None = None) -> Change:
    """Remove the sessions of a version, of one room or all."""
    if room_id is None:
        return Do("DELETE FROM backup_keys WHERE user_nid = ? AND version = ?", (user_nid, number))
    return Do(
        "DELETE FROM backup_keys WHERE user_nid = ? AND version = ? AND room_id = ?",
        (user_nid, number, room_id),
    )
