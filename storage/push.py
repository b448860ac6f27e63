"""Pushers: where notifications of users go, and how far that is."""

from collections.abc import Collection

from storage.changes import Change, Delete, Do
from storage.engine import Database
from storage.schema import PusherRow

Key = tuple[int, str, str]


async def pushers_after(db: Database, key: Key, limit: int) -> list[PusherRow]:
    """Up to `limit` pushers whose keys come after this one, in their order."""
    rows = await db.scan(
        "SELECT user_nid, app_id, pushkey, device_nid, json, enabled, created_ts, pending_pos"
        " FROM pushers WHERE (user_nid, app_id, pushkey) > (?, ?, ?)"
        " ORDER BY user_nid, app_id, pushkey LIMIT ?",
        *key,
        limit,
    )
    return [PusherRow(*row) for row in rows]


async def pushers_of(db: Database, user_nid: int) -> list[PusherRow]:
    """The pushers of a user."""
    rows = await db.fetch(
        "SELECT user_nid, app_id, pushkey, device_nid, json, enabled, created_ts, pending_pos"
        " FROM pushers WHERE user_nid = ? ORDER BY app_id, pushkey",
        user_nid,
    )
    return [PusherRow(*row) for row in rows]


async def pusher(db: Database, key: Key) -> PusherRow | None:
    """One pusher, None when it has ended."""
    rows = await db.fetch(
        "SELECT user_nid, app_id, pushkey, device_nid, json, enabled, created_ts, pending_pos"
        " FROM pushers WHERE user_nid = ? AND app_id = ? AND pushkey = ?",
        *key,
    )
    return PusherRow(*rows[0]) if rows else None


async def cursor(db: Database) -> int | None:
    """The position up to which everything was pushed, None before the first time."""
    rows = await db.fetch("SELECT pos FROM push_cursor WHERE one = 1")
    return rows[0][0] if rows else None


def pushers_ended(device_nids: Collection[int]) -> Change:
    """Remove the pushers that these devices have made."""
    return Do("DELETE FROM pushers WHERE device_nid IN (??)", (list(device_nids),))


def taken_from_others(user_nid: int, app_id: str, pushkey: str) -> Change:
    """Remove the pushers of this application and key that other users have."""
    return Do(
        "DELETE FROM pushers WHERE app_id = ? AND pushkey = ? AND user_nid <> ?",
        (app_id, pushkey, user_nid),
    )


def pending_since(key: Key, pos: int | None) -> Change:
    """Note from where on the gateway of a pusher has to be told, None when it was told all."""
    return Do(
        "UPDATE pushers SET pending_pos = ? WHERE user_nid = ? AND app_id = ? AND pushkey = ?",
        (pos, *key),
    )


def pusher_ended(key: Key) -> Change:
    """Remove a pusher, if it is still there."""
    return Delete(PusherRow, key)
