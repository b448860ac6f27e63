"""Accounts, devices, access tokens, registration tokens, user-interactive sessions, profiles.

Reads take many keys and return dicts from which what does not exist is absent. The writes that stand
here are those that a row alone can't say.
"""

from collections.abc import Collection

from storage.changes import Change, Do
from storage.engine import Database
from storage.schema import (
    AccessTokenRow,
    DeviceRow,
    ProfileRow,
    RegistrationTokenRow,
    UiaSessionRow,
    UserRow,
)


async def users_by_nid(db: Database, user_nids: Collection[int]) -> dict[int, UserRow]:
    """Local accounts by number."""
    rows = await db.fetch(
        "SELECT user_nid, localpart, password, flags, created_ts FROM users WHERE user_nid IN (??)",
        user_nids,
    )
    return {row[0]: UserRow(*row) for row in rows}


async def users_by_localpart(db: Database, localparts: Collection[str]) -> dict[str, UserRow]:
    """Local accounts by localpart, exactly as written."""
    rows = await db.fetch(
        "SELECT user_nid, localpart, password, flags, created_ts FROM users"
        " WHERE localpart IN (??)",
        localparts,
    )
    return {row[1]: UserRow(*row) for row in rows}


async def has_users(db: Database) -> bool:
    """Whether there is any account."""
    return bool(await db.fetch("SELECT user_nid FROM users LIMIT 1"))


async def profiles_of(db: Database, user_nid: int) -> dict[str, bytes]:
    """A user's profile fields (JSON) by name."""
    rows = await db.fetch(
        "SELECT user_nid, field, value FROM profiles WHERE user_nid = ?", user_nid
    )
    return {row.field: row.value for row in (ProfileRow(*row) for row in rows)}


async def devices_by_nid(db: Database, device_nids: Collection[int]) -> dict[int, DeviceRow]:
    """Devices by number."""
    rows = await db.fetch(
        "SELECT device_nid, user_nid, device_id, name, last_seen_ts, last_ip FROM devices"
        " WHERE device_nid IN (??)",
        device_nids,
    )
    return {row[0]: DeviceRow(*row) for row in rows}


async def devices_of_user(
    db: Database, user_nid: int, device_ids: Collection[str] | None = None
) -> dict[str, DeviceRow]:
    """A user's devices by id: those of `device_ids`, or all."""
    if device_ids is None:
        rows = await db.fetch(
            "SELECT device_nid, user_nid, device_id, name, last_seen_ts, last_ip FROM devices"
            " WHERE user_nid = ?",
            user_nid,
        )
    else:
        rows = await db.fetch(
            "SELECT device_nid, user_nid, device_id, name, last_seen_ts, last_ip FROM devices"
            " WHERE user_nid = ? AND device_id IN (??)",
            user_nid,
            device_ids,
        )
    return {row[2]: DeviceRow(*row) for row in rows}


def device_named(device_nid: int, name: str) -> Change:
    """Give a device a name; the item fails with `Missed` when it is not there."""
    return Do("UPDATE devices SET name = ? WHERE device_nid = ?", (name, device_nid), expect=1)


def device_seen(device_nid: int, ts: int, address: str) -> Change:
    """Note when and from where a device was last used, if it is still there."""
    return Do(
        "UPDATE devices SET last_seen_ts = ?, last_ip = ? WHERE device_nid = ?",
        (ts, address, device_nid),
    )


async def access_token(db: Database, token_hash: bytes) -> AccessTokenRow | None:
    """The access token of this hash."""
    rows = await db.fetch(
        "SELECT token_hash, device_nid, user_nid, expires_ts FROM access_tokens"
        " WHERE token_hash = ?",
        token_hash,
    )
    return AccessTokenRow(*rows[0]) if rows else None


async def tokens_of_devices(db: Database, device_nids: Collection[int]) -> list[AccessTokenRow]:
    """All access tokens of some devices."""
    rows = await db.fetch(
        "SELECT token_hash, device_nid, user_nid, expires_ts FROM access_tokens"
        " WHERE device_nid IN (??)",
        device_nids,
    )
    return [AccessTokenRow(*row) for row in rows]


async def registration_token(db: Database, token: str) -> RegistrationTokenRow | None:
    """The registration token of this text."""
    rows = await db.fetch(
        "SELECT token, uses_allowed, completed, expires_ts FROM registration_tokens"
        " WHERE token = ?",
        token,
    )
    return RegistrationTokenRow(*rows[0]) if rows else None


def registration_token_used(token: str, now: int) -> Change:
    """Count one use; the item fails with `Missed` when the token is not good (any more)."""
    return Do(
        "UPDATE registration_tokens SET completed = completed + 1 WHERE token = ?"
        " AND (uses_allowed IS NULL OR completed < uses_allowed)"
        " AND (expires_ts IS NULL OR expires_ts > ?)",
        (token, now),
        expect=1,
    )


async def uia_session(db: Database, session_id: str) -> UiaSessionRow | None:
    """The user-interactive session of this id."""
    rows = await db.fetch(
        "SELECT session_id, json, expires_ts FROM uia_sessions WHERE session_id = ?", session_id
    )
    return UiaSessionRow(*rows[0]) if rows else None


def uia_sessions_expired(now: int) -> Change:
    """Remove the sessions whose time is over."""
    return Do("DELETE FROM uia_sessions WHERE expires_ts <= ?", (now,))
