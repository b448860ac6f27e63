"""Reading how it stands with the encryption of devices: page by page, for operators."""

from collections.abc import Collection
from typing import NamedTuple

from storage.engine import Database


class Found(NamedTuple):
    """A local device; `waiting` is the number of messages in its inbox."""

    device_nid: int
    user_nid: int
    device_id: str
    keys: bool
    one_time_keys: int
    waiting: int


async def devices_after(db: Database, after: int, limit: int) -> list[Found]:
    """Up to `limit` local devices behind a number, in order."""
    rows = await db.scan(
        "SELECT device_nid, user_nid, device_id FROM devices WHERE device_nid > ?"
        " ORDER BY device_nid LIMIT ?",
        after,
        limit,
    )
    return await _found(db, [(row[0], row[1], row[2]) for row in rows])


async def devices_of(db: Database, user_nid: int) -> list[Found]:
    """A local user's devices, by id."""
    rows = await db.scan(
        "SELECT device_nid, user_nid, device_id FROM devices WHERE user_nid = ? ORDER BY device_id",
        user_nid,
    )
    return await _found(db, [(row[0], row[1], row[2]) for row in rows])


async def messages_by_server(db: Database, after: str, limit: int) -> list[tuple[str, int]]:
    """Up to `limit` servers for which EDUs wait, behind a name, in order, and how many do."""
    rows = await db.scan(
        "SELECT server, count(*) FROM edu_outbox WHERE server > ? GROUP BY server"
        " ORDER BY server LIMIT ?",
        after,
        limit,
    )
    return [(server, count) for server, count in rows]


async def _found(db: Database, devices: Collection[tuple[int, int, str]]) -> list[Found]:
    nids = [device_nid for device_nid, _, _ in devices]
    keyed = await db.scan("SELECT device_nid FROM device_keys WHERE device_nid IN (??)", nids)
    one_time = dict(
        await db.scan(
            "SELECT device_nid, count(*) FROM one_time_keys"
            " WHERE device_nid IN (??) AND claim_nid IS NULL GROUP BY device_nid",
            nids,
        )
    )
    waiting = dict(
        await db.scan(
            "SELECT device_nid, count(*) FROM to_device WHERE device_nid IN (??)"
            " GROUP BY device_nid",
            nids,
        )
    )
    with_keys = {nid for (nid,) in keyed}
    return [
        Found(nid, user, name, nid in with_keys, one_time.get(nid, 0), waiting.get(nid, 0))
        for nid, user, name in devices
    ]
