"""Losses that state resolution has caused, by room: kept, and the oldest forgotten."""

from storage.changes import Change, Do
from storage.engine import Database
from storage.schema import StateResetRow

MAX_KEPT = 1_000
"""Losses of one room that are kept, and those of the position at which they end."""


async def resets_of(db: Database, room_nid: int, limit: int) -> list[StateResetRow]:
    """The last losses in a room, the newest first."""
    rows = await db.fetch(
        "SELECT room_nid, pos, what, user_id, event_nid, lost_nid, left_nid, was, now, ts"
        " FROM state_resets WHERE room_nid = ? ORDER BY pos DESC, what, user_id LIMIT ?",
        room_nid,
        limit,
    )
    return [StateResetRow(*row) for row in rows]


def forget_older(room_nid: int) -> Change:
    """Forget what is older than the last `MAX_KEPT` losses of a room."""
    return Do(
        "DELETE FROM state_resets WHERE room_nid = ? AND pos < (SELECT min(pos) FROM (SELECT pos"
        " FROM state_resets WHERE room_nid = ? ORDER BY pos DESC LIMIT ?) AS kept)",
        (room_nid, room_nid, MAX_KEPT),
    )
