"""Pushers: where notifications of users go, and how far that is."""

from collections.abc import Collection
from typing import Final

from storage.changes import Change, Delete, Do
from storage.engine import Database
from storage.schema import PusherRow

Key = tuple[int, str, str]

_PUSHERS: Final = (
    "SELECT user_nid, app_id, pushkey, device_nid, json, enabled, created_ts, pending_pos,"
    " success_ts, error, error_ts, mailed_pos, due_ts, rest_until_ts, rest_s, stop_token"
    " FROM pushers "
)


async def pushers_after(db: Database, key: Key, limit: int) -> list[PusherRow]:
    """Up to `limit` pushers whose keys come after this one, in their order."""
    rows = await db.scan(
        _PUSHERS + "WHERE (user_nid, app_id, pushkey) > (?, ?, ?)"
        " ORDER BY user_nid, app_id, pushkey LIMIT ?",
        *key,
        limit,
    )
    return [PusherRow(*row) for row in rows]


async def pushers_of(db: Database, user_nids: Collection[int]) -> list[PusherRow]:
    """The pushers of these users, those of each in the order of their keys."""
    rows = await db.fetch(
        _PUSHERS + "WHERE user_nid IN (??)",
        user_nids,
    )
    return [PusherRow._make(row) for row in sorted(rows)]


async def pushers_at(db: Database, app_id: str, pushkey: str) -> list[PusherRow]:
    """The pushers of an application and a key there, of all users."""
    rows = await db.fetch(
        _PUSHERS + "WHERE app_id = ? AND pushkey = ?",
        app_id,
        pushkey,
    )
    return [PusherRow(*row) for row in rows]


async def pusher(db: Database, key: Key) -> PusherRow | None:
    """One pusher, None when it has ended."""
    rows = await db.fetch(
        _PUSHERS + "WHERE user_nid = ? AND app_id = ? AND pushkey = ?",
        *key,
    )
    return PusherRow(*rows[0]) if rows else None


async def pusher_by_token(db: Database, stop_token: str) -> PusherRow | None:
    """The pusher by mail that has this token, None when there is none (any more)."""
    rows = await db.fetch(
        _PUSHERS + "WHERE stop_token = ?",
        stop_token,
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


def failed(key: Key, error: str, ts: int) -> Change:
    """Note why a pusher could not be told (ms)."""
    return Do(
        "UPDATE pushers SET error = ?, error_ts = ?"
        " WHERE user_nid = ? AND app_id = ? AND pushkey = ?",
        (error, ts, *key),
    )


def succeeded(key: Key, ts: int) -> Change:
    """Note when a pusher was told last (ms)."""
    return Do(
        "UPDATE pushers SET success_ts = ? WHERE user_nid = ? AND app_id = ? AND pushkey = ?",
        (ts, *key),
    )


def mail_due(key: Key, due_ts: int) -> Change:
    """Plan the next mail of a pusher (ms)."""
    return Do(
        "UPDATE pushers SET due_ts = ? WHERE user_nid = ? AND app_id = ? AND pushkey = ?",
        (due_ts, *key),
    )


def mailed(key: Key, pos: int, now: int, rest_until_ts: int, rest_s: int) -> Change:
    """All up to a position was mailed, or needs no mail; none follows before a time (ms).

    A mail that was planned meanwhile, for a time after `now`, stays planned.
    """
    return Do(
        "UPDATE pushers SET mailed_pos = ?, due_ts = CASE WHEN due_ts > ? THEN due_ts END,"
        " rest_until_ts = ?, rest_s = ? WHERE user_nid = ? AND app_id = ? AND pushkey = ?",
        (pos, now, rest_until_ts, rest_s, *key),
    )


def rested(key: Key) -> Change:
    """The user has come: the pusher's mails have no pause any more."""
    return Do(
        "UPDATE pushers SET rest_until_ts = 0, rest_s = 0"
        " WHERE user_nid = ? AND app_id = ? AND pushkey = ?",
        key,
    )


def pusher_ended(key: Key) -> Change:
    """Remove a pusher, if it is still there."""
    return Delete(PusherRow, key)
