"""Reading memberships: who is where now, and where local users were before.

`memberships` has the present one of every user in every room, `membership_log` every change of a
local user's. What a membership allows is not decided here.
"""

from collections.abc import Collection

from storage.changes import Change, Do
from storage.engine import Database
from storage.schema import FORGOTTEN, MembershipLogRow, MembershipRow

_BEFORE_ALL = -(2**62)


async def of_user(db: Database, user_nid: int) -> dict[int, MembershipRow]:
    """All present memberships of a user, by room."""
    rows = await db.scan(
        "SELECT room_nid, user_nid, membership, event_nid, pos, flags, stripped FROM memberships"
        " WHERE user_nid = ?",
        user_nid,
    )
    return {row[0]: MembershipRow(*row) for row in rows}


async def of_user_in(
    db: Database, user_nid: int, room_nids: Collection[int]
) -> dict[int, MembershipRow]:
    """A user's present memberships in some rooms, by room."""
    rows = await db.fetch(
        "SELECT room_nid, user_nid, membership, event_nid, pos, flags, stripped FROM memberships"
        " WHERE room_nid IN (??) AND user_nid = ?",
        room_nids,
        user_nid,
    )
    return {row[0]: MembershipRow(*row) for row in rows}


async def in_room(
    db: Database, room_nid: int, memberships: Collection[int]
) -> dict[int, MembershipRow]:
    """Who has one of these memberships in the room, by user."""
    rows = await db.scan(
        "SELECT room_nid, user_nid, membership, event_nid, pos, flags, stripped FROM memberships"
        " WHERE room_nid = ? AND membership IN (??)",
        room_nid,
        memberships,
    )
    return {row[1]: MembershipRow(*row) for row in rows}


async def in_room_of(
    db: Database, room_nid: int, user_nids: Collection[int]
) -> dict[int, MembershipRow]:
    """The memberships of these users in the room, by user."""
    rows = await db.fetch(
        "SELECT room_nid, user_nid, membership, event_nid, pos, flags, stripped FROM memberships"
        " WHERE room_nid = ? AND user_nid IN (??)",
        room_nid,
        user_nids,
    )
    return {row[1]: MembershipRow(*row) for row in rows}


async def anybody_of_ours_in(db: Database, room_nid: int) -> bool:
    """Whether a local user is joined to the room."""
    rows = await db.scan(
        "SELECT 1 FROM memberships JOIN users ON users.user_nid = memberships.user_nid"
        " WHERE room_nid = ? AND membership = 1 LIMIT 1",
        room_nid,
    )
    return bool(rows)


async def members_outside(db: Database, user_nid: int, limit: int) -> int:
    """How many invites and knocks a user has in rooms that we are not in; counted up to `limit`."""
    rows = await db.fetch(
        "SELECT 1 FROM memberships WHERE user_nid = ? AND membership IN (2, 3)"
        " AND stripped IS NOT NULL LIMIT ?",
        user_nid,
        limit,
    )
    return len(rows)


async def joined_rooms(db: Database, user_nids: Collection[int]) -> dict[int, set[int]]:
    """The rooms in which each of the users is joined."""
    rows = await db.scan(
        "SELECT user_nid, room_nid FROM memberships WHERE user_nid IN (??) AND membership = 1",
        user_nids,
    )
    rooms: dict[int, set[int]] = {}
    for user_nid, room_nid in rows:
        rooms.setdefault(user_nid, set()).add(room_nid)
    return rooms


async def joins_of(db: Database, user_nid: int) -> dict[int, int]:
    """The rooms in which a user is joined, with the positions of the member events."""
    rows = await db.scan(
        "SELECT room_nid, pos FROM memberships WHERE user_nid = ? AND membership = 1", user_nid
    )
    return {row[0]: row[1] for row in rows}


async def invites_between(
    db: Database, user_nids: Collection[int], after: int, until: int
) -> list[tuple[int, int, int, int]]:
    """(position, room, event, user) of the users' open invites that came in (after, until]."""
    rows = await db.scan(
        "SELECT pos, room_nid, event_nid, user_nid FROM memberships"
        " WHERE user_nid IN (??) AND membership = 2 AND pos > ? AND pos <= ?",
        user_nids,
        after,
        until,
    )
    return [(pos, room_nid, event_nid, user_nid) for pos, room_nid, event_nid, user_nid in rows]


async def local_members(db: Database, room_nids: Collection[int]) -> dict[int, set[int]]:
    """The local users who are joined in each room."""
    rows = await db.scan(
        "SELECT room_nid, memberships.user_nid FROM memberships"
        " JOIN users ON users.user_nid = memberships.user_nid"
        " WHERE room_nid IN (??) AND membership = 1",
        room_nids,
    )
    members: dict[int, set[int]] = {}
    for room_nid, user_nid in rows:
        members.setdefault(room_nid, set()).add(user_nid)
    return members


async def joined_guests(db: Database, room_nid: int) -> set[int]:
    """The guests of this server who are joined in a room."""
    rows = await db.scan(
        "SELECT memberships.user_nid FROM memberships"
        " JOIN users ON users.user_nid = memberships.user_nid"
        " WHERE room_nid = ? AND membership = 1 AND (users.flags & 4) <> 0",
        room_nid,
    )
    return {user_nid for (user_nid,) in rows}


async def log_between(
    db: Database, user_nid: int, after: int, until: int
) -> list[MembershipLogRow]:
    """The changes of a local user's memberships at positions in (after, until], in order."""
    rows = await db.fetch(
        "SELECT user_nid, room_nid, pos, membership, event_nid FROM membership_log"
        " WHERE user_nid = ? AND pos > ? AND pos <= ? ORDER BY pos, room_nid",
        user_nid,
        after,
        until,
    )
    return [MembershipLogRow(*row) for row in rows]


async def of_user_at(
    db: Database, user_nid: int, room_nids: Collection[int], pos: int
) -> dict[int, MembershipLogRow]:
    """A local user's memberships in these rooms as they were after position `pos`, by room."""
    rows = await db.fetch(
        "SELECT user_nid, room_nid, pos, membership, event_nid FROM membership_log AS last"
        " WHERE user_nid = ? AND room_nid IN (??) AND pos = (SELECT max(earlier.pos)"
        " FROM membership_log AS earlier WHERE earlier.user_nid = last.user_nid"
        " AND earlier.room_nid = last.room_nid AND earlier.pos <= ?)",
        user_nid,
        room_nids,
        pos,
    )
    return {row[1]: MembershipLogRow(*row) for row in rows}


async def joined_since(db: Database, user_nid: int, room_nid: int) -> int | None:
    """The position at which a local user's latest stay in the room began, None without one."""
    rows = await db.fetch(
        "SELECT min(pos) FROM membership_log WHERE user_nid = ? AND room_nid = ?"
        " AND membership = 1 AND pos > COALESCE((SELECT max(pos) FROM membership_log"
        " WHERE user_nid = ? AND room_nid = ? AND membership <> 1), ?)",
        user_nid,
        room_nid,
        user_nid,
        room_nid,
        _BEFORE_ALL,
    )
    joined: int | None = rows[0][0]
    return joined


async def history_of_user_in(
    db: Database, user_nid: int, room_nids: Collection[int]
) -> dict[int, list[MembershipLogRow]]:
    """All changes of a local user's memberships in these rooms, by room and in order."""
    rows = await db.scan(
        "SELECT user_nid, room_nid, pos, membership, event_nid FROM membership_log"
        " WHERE user_nid = ? AND room_nid IN (??) ORDER BY room_nid, pos",
        user_nid,
        room_nids,
    )
    history: dict[int, list[MembershipLogRow]] = {}
    for row in rows:
        history.setdefault(row[1], []).append(MembershipLogRow(*row))
    return history


async def heroes(db: Database, room_nid: int, without_nid: int, limit: int) -> list[int]:
    """Up to `limit` users other than `without_nid`, those joined or invited first, oldest first."""
    rows = await db.fetch(
        "SELECT user_nid FROM memberships WHERE room_nid = ? AND membership IN (1, 2)"
        " AND user_nid <> ? ORDER BY pos, user_nid LIMIT ?",
        room_nid,
        without_nid,
        limit,
    )
    if not rows:
        rows = await db.fetch(
            "SELECT user_nid FROM memberships WHERE room_nid = ? AND membership IN (4, 5)"
            " AND user_nid <> ? ORDER BY pos, user_nid LIMIT ?",
            room_nid,
            without_nid,
            limit,
        )
    return [user_nid for (user_nid,) in rows]


def forget(room_nid: int, user_nid: int) -> Change:
    """Mark that the user has forgotten the room."""
    return Do(
        "UPDATE memberships SET flags = flags | ? WHERE room_nid = ? AND user_nid = ?",
        (FORGOTTEN, room_nid, user_nid),
        expect=1,
    )
