"""Reading the presence that users had when it was last written."""

from collections.abc import Collection

from storage.engine import Database
from storage.schema import PresenceRow


async def presence_of(db: Database, user_nids: Collection[int]) -> dict[int, PresenceRow]:
    """The stored presence of users; those who never had any are absent."""
    rows = await db.fetch(
        "SELECT user_nid, state, status_msg, last_active_ts FROM presence WHERE user_nid IN (??)",
        user_nids,
    )
    return {row[0]: PresenceRow(*row) for row in rows}


async def recently_active(db: Database, after: int, limit: int) -> dict[str, PresenceRow]:
    """By user id, the users who were active after a moment (ms), the latest first."""
    rows = await db.scan(
        "SELECT name, user_nid, state, status_msg, last_active_ts FROM presence"
        " JOIN names ON name_nid = user_nid"
        " WHERE last_active_ts > ? ORDER BY last_active_ts DESC LIMIT ?",
        after,
        limit,
    )
    return {row[0]: PresenceRow(*row[1:]) for row in rows}
