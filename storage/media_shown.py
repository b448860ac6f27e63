"""Who shows which files of this server, and who has ceased to.

What is read here may be older than what a commit finds, so whatever is decided by it is written
with the condition under which it was decided.
"""

from collections.abc import Collection

from storage.changes import Do
from storage.engine import Database
from storage.schema import SHOWN_BY_ACCOUNT_DATA, MediaLeftRow, MediaRow


async def shown(db: Database, media_ids: Collection[str]) -> set[str]:
    """Those files of this server that an event, a profile or account data names."""
    rows = await db.fetch(
        "SELECT DISTINCT media_id FROM media_shown WHERE media_id IN (??)", media_ids
    )
    return {media_id for (media_id,) in rows}


async def left_before(db: Database, ts: int, limit: int) -> list[MediaLeftRow]:
    """What was left until a time (ms) and not looked at since, the oldest first."""
    rows = await db.fetch(
        "SELECT server, media_id, sender_nid, ts FROM media_left WHERE ts <= ? ORDER BY ts LIMIT ?",
        ts,
        limit,
    )
    return [MediaLeftRow(*row) for row in rows]


async def leavers(db: Database, server: str, media_id: str) -> set[int]:
    """The users who have shown a file and do so less than before."""
    rows = await db.fetch(
        "SELECT sender_nid FROM media_left WHERE server = ? AND media_id = ?", server, media_id
    )
    return {sender_nid for (sender_nid,) in rows}


def account_data_replaced(user_nid: int, part: str) -> Do:
    """A piece of account data ("room_nid type") shows no file any more."""
    return Do(
        "DELETE FROM media_shown WHERE kind <> 0 AND kind = ? AND nid = ? AND part = ?",
        (SHOWN_BY_ACCOUNT_DATA, user_nid, part),
    )


def looked_at(row: MediaLeftRow) -> Do:
    """Keep in mind that a user has left a file that others show, if nothing has changed since."""
    return Do(
        "UPDATE media_left SET ts = NULL"
        " WHERE server = ? AND media_id = ? AND sender_nid = ? AND ts = ?",
        row,
    )


def done_with(row: MediaLeftRow) -> Do:
    """Forget that a user has left a file, if nothing has changed since."""
    return Do(
        "DELETE FROM media_left WHERE server = ? AND media_id = ? AND sender_nid = ? AND ts = ?",
        row,
    )


def gone(server: str, media_id: str) -> Do:
    """Forget everybody who has left a file that is no more."""
    return Do("DELETE FROM media_left WHERE server = ? AND media_id = ?", (server, media_id))


def dropped_unless_shown(row: MediaRow) -> Do:
    """Remove a file's name; the item fails with `Missed` when something shows it after all."""
    return Do(
        "DELETE FROM media WHERE server = ? AND media_id = ?"
        " AND NOT EXISTS (SELECT 1 FROM media_shown WHERE media_id = ?)",
        (row.server, row.media_id, row.media_id),
        expect=1,
    )
