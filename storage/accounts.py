"""Reading accounts: users, devices, access tokens, profiles, what registration needs, jobs."""

from collections import defaultdict
from collections.abc import Collection
from typing import NamedTuple

from storage.engine import Database
from storage.schema import (
    AccessTokenRow,
    DeviceRow,
    JobRow,
    LoginTokenRow,
    ProfileChangeRow,
    RegistrationTokenRow,
    UiaSessionRow,
    UserRow,
)


class TokenOwner(NamedTuple):
    """An access token with the device and the account that it stands for."""

    token: AccessTokenRow
    device: DeviceRow
    user: UserRow
    user_id: str


async def users(db: Database, user_nids: Collection[int]) -> dict[int, UserRow]:
    """Local accounts by number."""
    rows = await db.fetch(
        "SELECT user_nid, localpart, password, flags, created_ts FROM users WHERE user_nid IN (??)",
        user_nids,
    )
    return {row[0]: UserRow(*row) for row in rows}


async def users_by_localpart(db: Database, localparts: Collection[str]) -> dict[str, UserRow]:
    """Local accounts by localpart."""
    rows = await db.fetch(
        "SELECT user_nid, localpart, password, flags, created_ts FROM users"
        " WHERE localpart IN (??)",
        localparts,
    )
    return {row[1]: UserRow(*row) for row in rows}


async def users_after(db: Database, localpart: str, limit: int) -> list[UserRow]:
    """Up to `limit` accounts whose localparts come after this one, in their order."""
    rows = await db.scan(
        "SELECT user_nid, localpart, password, flags, created_ts FROM users WHERE localpart > ?"
        " ORDER BY localpart LIMIT ?",
        localpart,
        limit,
    )
    return [UserRow(*row) for row in rows]


async def any_account(db: Database) -> bool:
    """Whether there is an account of a person who stays: guests and services are none."""
    return bool(
        await db.fetch("SELECT user_nid FROM users WHERE flags & 36 = 0 ORDER BY user_nid LIMIT 1")
    )


async def token_owners(db: Database, token_hashes: Collection[bytes]) -> dict[bytes, TokenOwner]:
    """Owners of access tokens by hash, expired tokens too."""
    rows = await db.fetch(
        "SELECT token_hash, access_tokens.device_nid, access_tokens.user_nid, expires_ts,"
        " refresh_hash, refresh_expires_ts, replaces, devices.device_nid,"
        " devices.user_nid, device_id, devices.name, last_seen_ts, last_ip, users.user_nid,"
        " localpart, password, flags, created_ts, names.name"
        " FROM access_tokens JOIN devices ON devices.device_nid = access_tokens.device_nid"
        " JOIN users ON users.user_nid = access_tokens.user_nid"
        " JOIN names ON names.name_nid = access_tokens.user_nid WHERE token_hash IN (??)",
        token_hashes,
    )
    return {
        row[0]: TokenOwner(
            AccessTokenRow(*row[:7]), DeviceRow(*row[7:13]), UserRow(*row[13:18]), row[18]
        )
        for row in rows
    }


async def tokens_of(db: Database, device_nids: Collection[int]) -> dict[int, list[AccessTokenRow]]:
    """Access tokens by device."""
    rows = await db.fetch(
        "SELECT token_hash, device_nid, user_nid, expires_ts, refresh_hash, refresh_expires_ts,"
        " replaces FROM access_tokens WHERE device_nid IN (??)",
        device_nids,
    )
    found: dict[int, list[AccessTokenRow]] = defaultdict(list)
    for row in rows:
        found[row[1]].append(AccessTokenRow(*row))
    return dict(found)


async def refreshable(
    db: Database, refresh_hashes: Collection[bytes]
) -> dict[bytes, AccessTokenRow]:
    """Access tokens by the hash of their refresh token, expired ones too."""
    rows = await db.fetch(
        "SELECT token_hash, device_nid, user_nid, expires_ts, refresh_hash, refresh_expires_ts,"
        " replaces FROM access_tokens WHERE refresh_hash IN (??)",
        refresh_hashes,
    )
    return {row[4]: AccessTokenRow(*row) for row in rows}


async def login_tokens(db: Database, token_hashes: Collection[bytes]) -> dict[bytes, LoginTokenRow]:
    """Login tokens by hash, expired ones too."""
    rows = await db.fetch(
        "SELECT token_hash, user_nid, expires_ts FROM login_tokens WHERE token_hash IN (??)",
        token_hashes,
    )
    return {row[0]: LoginTokenRow(*row) for row in rows}


async def devices(db: Database, device_nids: Collection[int]) -> dict[int, DeviceRow]:
    """Devices by number."""
    rows = await db.fetch(
        "SELECT device_nid, user_nid, device_id, name, last_seen_ts, last_ip FROM devices"
        " WHERE device_nid IN (??)",
        device_nids,
    )
    return {row[0]: DeviceRow(*row) for row in rows}


async def devices_of(db: Database, user_nids: Collection[int]) -> dict[int, dict[str, DeviceRow]]:
    """By user, devices by their id."""
    rows = await db.fetch(
        "SELECT device_nid, user_nid, device_id, name, last_seen_ts, last_ip FROM devices"
        " WHERE user_nid IN (??) ORDER BY user_nid, device_id",
        user_nids,
    )
    found: dict[int, dict[str, DeviceRow]] = defaultdict(dict)
    for row in rows:
        found[row[1]][row[2]] = DeviceRow(*row)
    return dict(found)


async def device_nids_of(db: Database, user_nids: Collection[int]) -> dict[int, dict[str, int]]:
    """By user, the numbers of devices by their id."""
    rows = await db.fetch(
        "SELECT user_nid, device_id, device_nid FROM devices WHERE user_nid IN (??)"
        " ORDER BY user_nid, device_id",
        user_nids,
    )
    found: dict[int, dict[str, int]] = {}
    for user_nid, device_id, device_nid in rows:
        own = found.get(user_nid)
        if own is None:
            found[user_nid] = {device_id: device_nid}
        else:
            own[device_id] = device_nid
    return found


async def profiles(db: Database, user_nids: Collection[int]) -> dict[int, dict[str, bytes]]:
    """By user, the JSON of each field of the profile."""
    rows = await db.fetch(
        "SELECT user_nid, field, value FROM profiles WHERE user_nid IN (??)", user_nids
    )
    found: dict[int, dict[str, bytes]] = defaultdict(dict)
    for user_nid, field, value in rows:
        found[user_nid][field] = value
    return dict(found)


async def profile_changes(db: Database, user_nids: Collection[int]) -> dict[int, ProfileChangeRow]:
    """By user, the change of the profile that not all rooms may know yet."""
    rows = await db.fetch(
        "SELECT user_nid, number, former FROM profile_changes WHERE user_nid IN (??)", user_nids
    )
    return {row[0]: ProfileChangeRow(*row) for row in rows}


async def erasures(db: Database, after: int, limit: int) -> dict[int, int]:
    """By user who was erased, the position at which that was; the first ones behind a number."""
    return dict(
        await db.fetch(
            "SELECT user_nid, pos FROM erasures WHERE user_nid > ? ORDER BY user_nid LIMIT ?",
            after,
            limit,
        )
    )


async def registration_tokens(
    db: Database, tokens: Collection[str]
) -> dict[str, RegistrationTokenRow]:
    """Registration tokens by their text."""
    rows = await db.fetch(
        "SELECT token, uses_allowed, completed, expires_ts FROM registration_tokens"
        " WHERE token IN (??)",
        tokens,
    )
    return {row[0]: RegistrationTokenRow(*row) for row in rows}


async def uia_sessions(db: Database, session_ids: Collection[str]) -> dict[str, UiaSessionRow]:
    """Sessions of user-interactive authentication by id, expired ones too."""
    rows = await db.fetch(
        "SELECT session_id, json, expires_ts FROM uia_sessions WHERE session_id IN (??)",
        session_ids,
    )
    return {row[0]: UiaSessionRow(*row) for row in rows}


async def jobs_due(db: Database, now: int, limit: int) -> list[JobRow]:
    """Up to `limit` jobs whose time has come (ms), those that wait longest first."""
    rows = await db.fetch(
        "SELECT job_nid, kind, args, run_at, tries FROM jobs WHERE run_at <= ?"
        " ORDER BY run_at, job_nid LIMIT ?",
        now,
        limit,
    )
    return [JobRow(*row) for row in rows]


async def next_job_at(db: Database, after: int) -> int | None:
    """When the next job is due (ms) of those that are due later than `after`."""
    rows = await db.fetch("SELECT run_at FROM jobs WHERE run_at > ? ORDER BY run_at LIMIT 1", after)
    return rows[0][0] if rows else None
