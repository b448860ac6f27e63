"""Reading who may be found by name.

`known_users.found` is what is searched: id, line feed and name, folded for comparison. All of it is
looked at, off the loop: a part of a name has no index. Those come first who are called exactly so,
then those whose name or id begins so.
"""

from typing import NamedTuple

from storage.engine import Database


class Patterns(NamedTuple):
    """For LIKE: who has the term anywhere, who is called so, and whose id or name begins so."""

    anywhere: str
    localpart: str
    name: str
    localpart_begins: str
    name_begins: str


async def local_users(
    db: Database, patterns: Patterns, limit: int
) -> list[tuple[str, str | None, str | None]]:
    """(user id, name, avatar) of accounts in use, those that fit best first."""
    return await db.scan(
        "SELECT user_id, name, avatar FROM known_users"
        " JOIN users ON users.user_nid = known_users.user_nid"
        " WHERE found LIKE ? ESCAPE '\\' AND (flags & 6) = 0"
        " ORDER BY CASE WHEN found LIKE ? ESCAPE '\\' OR found LIKE ? ESCAPE '\\' THEN 0"
        " WHEN found LIKE ? ESCAPE '\\' OR found LIKE ? ESCAPE '\\' THEN 1 ELSE 2 END,"
        " known_users.user_nid LIMIT ?",
        *patterns,
        limit,
    )


async def remote_users(
    db: Database, user_nid: int, patterns: Patterns, limit: int
) -> list[tuple[str, str | None, str | None]]:
    """Those of other servers who share a room with the user, or are in one that is open to all."""
    return await db.scan(
        "SELECT user_id, name, avatar FROM known_users WHERE found LIKE ? ESCAPE '\\'"
        " AND NOT EXISTS (SELECT 1 FROM users WHERE users.user_nid = known_users.user_nid)"
        " AND EXISTS (SELECT 1 FROM memberships AS theirs"
        " JOIN room_summary ON room_summary.room_nid = theirs.room_nid"
        " WHERE theirs.user_nid = known_users.user_nid AND theirs.membership = 1"
        " AND (join_rule = 'public' OR visibility = 'world_readable' OR EXISTS (SELECT 1"
        " FROM memberships AS mine WHERE mine.room_nid = theirs.room_nid"
        " AND mine.user_nid = ? AND mine.membership = 1)))"
        " ORDER BY CASE WHEN found LIKE ? ESCAPE '\\' OR found LIKE ? ESCAPE '\\' THEN 0"
        " WHEN found LIKE ? ESCAPE '\\' OR found LIKE ? ESCAPE '\\' THEN 1 ELSE 2 END,"
        " known_users.user_nid LIMIT ?",
        patterns.anywhere,
        user_nid,
        *patterns[1:],
        limit,
    )
