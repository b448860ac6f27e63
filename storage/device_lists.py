"""Reading and marking the lists of users' devices: whose changed, whose copy is stale."""

from collections.abc import Collection

from storage.changes import Change, Do
from storage.engine import Database
from storage.schema import DeviceListRow, RemoteDeviceRow


async def lists(db: Database, user_nids: Collection[int]) -> dict[int, DeviceListRow]:
    """The rows of users' lists; those that never changed are absent."""
    rows = await db.fetch(
        "SELECT user_nid, server, pos, version, stale FROM device_lists WHERE user_nid IN (??)",
        user_nids,
    )
    return {row[0]: DeviceListRow(*row) for row in rows}


async def changed_between(db: Database, after: int, until: int) -> list[int]:
    """The users whose lists last changed at positions in (after, until]."""
    rows = await db.scan(
        "SELECT user_nid FROM device_lists WHERE pos > ? AND pos <= ? ORDER BY pos", after, until
    )
    return [user_nid for (user_nid,) in rows]


async def signed_between(db: Database, signer_nid: int, after: int, until: int) -> list[int]:
    """The users on whose keys a user's signatures came at positions in (after, until]."""
    rows = await db.fetch(
        "SELECT DISTINCT user_nid FROM key_signatures WHERE signer_nid = ? AND pos > ?"
        " AND pos <= ? ORDER BY user_nid",
        signer_nid,
        after,
        until,
    )
    return [user_nid for (user_nid,) in rows]


async def stale(db: Database, after: int, limit: int) -> list[DeviceListRow]:
    """Up to `limit` lists that must be fetched anew, of users behind a number."""
    rows = await db.scan(
        "SELECT user_nid, server, pos, version, stale FROM device_lists"
        " WHERE stale > 0 AND user_nid > ? ORDER BY user_nid LIMIT ?",
        after,
        limit,
    )
    return [DeviceListRow(*row) for row in rows]


async def remote_devices(
    db: Database, user_nids: Collection[int]
) -> dict[int, dict[str, RemoteDeviceRow]]:
    """By user of another server and device id, the devices that are known."""
    found: dict[int, dict[str, RemoteDeviceRow]] = {}
    for row in await db.scan(
        "SELECT user_nid, device_id, name, json FROM remote_devices WHERE user_nid IN (??)"
        " ORDER BY user_nid, device_id",
        user_nids,
    ):
        found.setdefault(row[0], {})[row[1]] = RemoteDeviceRow(*row)
    return found


async def members_or_leavers(db: Database, room_nids: Collection[int], after: int) -> set[int]:
    """Who is joined in one of the rooms, or has moved there after a position."""
    rows = await db.scan(
        "SELECT user_nid FROM memberships WHERE room_nid IN (??) AND (membership = 1 OR pos > ?)",
        room_nids,
        after,
    )
    return {user_nid for (user_nid,) in rows}


def stale_list(user_nid: int) -> Change:
    """A copy of a user's list can't be relied on any more, if there is one."""
    return Do("UPDATE device_lists SET stale = 1 WHERE user_nid = ? AND server <> ''", (user_nid,))


def stale_lists_of(server: str) -> Change:
    """No copy of a list of this server's users can be relied on any more."""
    return Do("UPDATE device_lists SET stale = 1 WHERE server = ? AND server <> ''", (server,))


def stale_lists_in(room_nid: int) -> Change:
    """No copy of a list of a room's members can be relied on: this server comes into the room."""
    return Do(
        "UPDATE device_lists SET stale = 1 WHERE server <> '' AND user_nid IN"
        " (SELECT user_nid FROM memberships WHERE room_nid = ? AND membership = 1)",
        (room_nid,),
    )
