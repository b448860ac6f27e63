"""Reading and marking the lists of users' devices: whose changed, whose copy is stale."""

from collections.abc import Collection

from storage.changes import Change, Do
from storage.engine import Database
from storage.schema import DeviceListRow, RemoteDeviceRow


async def lists(db: Database, user_nids: Collection[int]) -> dict[int, DeviceListRow]:
    """The rows of users' lists; those that never changed are absent."""
    rows = await db.fetch(
        "SELECT user_nid, server, pos, version, stale, device_id, devices_pos, signing_pos"
        " FROM device_lists WHERE user_nid IN (??)",
        user_nids,
    )
    return {row[0]: DeviceListRow(*row) for row in rows}


async def changed_between(db: Database, after: int, until: int) -> list[int]:
    """The users whose lists last changed at positions in (after, until]."""
    rows = await db.scan(
        "SELECT user_nid FROM device_lists WHERE pos > ? AND pos <= ? ORDER BY pos", after, until
    )
    return [user_nid for (user_nid,) in rows]


async def own_changed(db: Database, after: int, until: int, limit: int) -> list[DeviceListRow]:
    """Up to `limit` lists of local users that last changed in (after, until], in order."""
    rows = await db.scan(
        "SELECT user_nid, server, pos, version, stale, device_id, devices_pos, signing_pos"
        " FROM device_lists WHERE pos > ? AND pos <= ? AND server = '' ORDER BY pos LIMIT ?",
        after,
        until,
        limit,
    )
    return [DeviceListRow(*row) for row in rows]


async def own_changed_beside(
    db: Database, server: str, after: int, limit: int
) -> list[DeviceListRow]:
    """Up to `limit` lists of local users who share a room with a server, changed since, in order.

    Such a list has changed at a position above `after`.
    """
    rows = await db.scan(
        "SELECT user_nid, server, pos, version, stale, device_id, devices_pos, signing_pos"
        " FROM device_lists WHERE pos > ? AND server = '' AND EXISTS (SELECT 1 FROM memberships"
        " JOIN room_servers ON room_servers.room_nid = memberships.room_nid"
        " WHERE memberships.user_nid = device_lists.user_nid AND membership = 1"
        " AND server_nid = (SELECT name_nid FROM names WHERE name = ?)) ORDER BY pos LIMIT ?",
        after,
        server,
        limit,
    )
    return [DeviceListRow(*row) for row in rows]


async def servers_beside(db: Database, user_nid: int, without_room: int = 0) -> set[str]:
    """The other servers that share a room with a local user; one room may be left out."""
    rows = await db.scan(
        "SELECT DISTINCT name FROM memberships"
        " JOIN room_servers ON room_servers.room_nid = memberships.room_nid"
        " JOIN names ON name_nid = server_nid"
        " WHERE user_nid = ? AND membership = 1 AND memberships.room_nid <> ?",
        user_nid,
        without_room,
    )
    return {name for (name,) in rows}


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
        "SELECT user_nid, server, pos, version, stale, device_id, devices_pos, signing_pos"
        " FROM device_lists WHERE stale > 0 AND user_nid > ? ORDER BY user_nid LIMIT ?",
        after,
        limit,
    )
    return [DeviceListRow(*row) for row in rows]


async def stale_of(db: Database, server: str, after: int, limit: int) -> list[DeviceListRow]:
    """As `stale`, of the users of one server."""
    rows = await db.scan(
        "SELECT user_nid, server, pos, version, stale, device_id, devices_pos, signing_pos"
        " FROM device_lists WHERE server = ? AND server <> '' AND stale > 0 AND user_nid > ?"
        " ORDER BY user_nid LIMIT ?",
        server,
        after,
        limit,
    )
    return [DeviceListRow(*row) for row in rows]


async def encrypted_with_ours(db: Database, room_nids: Collection[int]) -> set[int]:
    """Those of the rooms that are encrypted and have a local user in them."""
    rows = await db.scan(
        "SELECT room_nid FROM room_summary WHERE room_nid IN (??) AND encryption IS NOT NULL"
        " AND EXISTS (SELECT 1 FROM memberships JOIN users ON users.user_nid = memberships.user_nid"
        " WHERE memberships.room_nid = room_summary.room_nid AND membership = 1)",
        room_nids,
    )
    return {room_nid for (room_nid,) in rows}


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


async def copied(db: Database, after: int, limit: int) -> list[int]:
    """Up to `limit` users of other servers whose lists are copied, behind a number, in order."""
    rows = await db.scan(
        "SELECT user_nid FROM device_lists WHERE user_nid > ? AND server <> ''"
        " ORDER BY user_nid LIMIT ?",
        after,
        limit,
    )
    return [user_nid for (user_nid,) in rows]


async def alone(db: Database, user_nids: Collection[int]) -> list[int]:
    """Those of other servers' users with a copied list who share no room with a local user."""
    rows = await db.scan(
        "SELECT user_nid FROM device_lists WHERE user_nid IN (??) AND server <> ''"
        " AND NOT EXISTS (SELECT 1 FROM memberships AS theirs JOIN memberships AS ours"
        " ON ours.room_nid = theirs.room_nid AND ours.membership = 1"
        " JOIN users ON users.user_nid = ours.user_nid"
        " WHERE theirs.user_nid = device_lists.user_nid AND theirs.membership = 1)",
        user_nids,
    )
    return [user_nid for (user_nid,) in rows]


async def members_or_leavers(db: Database, room_nids: Collection[int], after: int) -> set[int]:
    """Who is joined in one of the rooms, or has moved there after a position."""
    rows = await db.scan(
        "SELECT user_nid FROM memberships WHERE room_nid IN (??) AND (membership = 1 OR pos > ?)",
        room_nids,
        after,
    )
    return {user_nid for (user_nid,) in rows}


def first_known(user_nid: int, server: str) -> Change:
    """An empty copy of the list of another server's user, which is stale, unless there is one."""
    return Do(
        "INSERT INTO device_lists"
        " (user_nid, server, pos, version, stale, device_id, devices_pos, signing_pos)"
        " VALUES (?, ?, 0, 0, 1, '', 0, 0) ON CONFLICT (user_nid) DO NOTHING",
        (user_nid, server),
    )


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


def all_lists_stale() -> Change:
    """No copy of another server's list can be relied on."""
    return Do("UPDATE device_lists SET stale = 1 WHERE server <> '' AND server > ''")


def own_versions_raised(by: int) -> Change:
    """Let the versions of all local users' lists go on further up."""
    return Do("UPDATE device_lists SET version = version + ? WHERE server = ''", (by,))


def remote_devices_gone(user_nids: Collection[int]) -> Change:
    """Remove the copies of devices of other servers' users."""
    return Do("DELETE FROM remote_devices WHERE user_nid IN (??)", (user_nids,))


def copies_dropped(user_nids: Collection[int]) -> list[Change]:
    """Remove all that is known of the keys of other servers' users."""
    return [
        remote_devices_gone(user_nids),
        Do("DELETE FROM signing_keys WHERE user_nid IN (??)", (user_nids,)),
        Do("DELETE FROM device_lists WHERE user_nid IN (??) AND server <> ''", (user_nids,)),
    ]
