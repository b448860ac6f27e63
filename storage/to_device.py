"""Reading and removing the messages that wait for devices.

What is read of inboxes is all that waits only when there are no parcels.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from storage.changes import Change, Do
from storage.engine import Database


class Parcel(NamedTuple):
    """Messages that came together, by the device's number."""

    pos: int
    messages: Mapping[int, msgspec.Raw]


class _Sent(msgspec.Struct):
    sender: str


_sent_by = msgspec.json.Decoder(_Sent).decode
_unpack = msgspec.json.Decoder(tuple[list[int], list[msgspec.Raw]]).decode


async def parcels(db: Database, after: int, limit: int) -> list[Parcel]:
    """The first parcels behind a position, in order."""
    rows = await db.scan(
        "SELECT pos, messages FROM parcels WHERE pos > ? ORDER BY pos LIMIT ?", after, limit
    )
    return [Parcel(pos, dict(zip(*_unpack(messages), strict=True))) for pos, messages in rows]


async def alive(db: Database, device_nids: Collection[int]) -> set[int]:
    """Those of the devices that are still there."""
    rows = await db.scan("SELECT device_nid FROM devices WHERE device_nid IN (??)", device_nids)
    return {device_nid for (device_nid,) in rows}


def sorted_up_to(pos: int) -> Change:
    """What came up to a position stands in inboxes, or was fetched."""
    return Do("DELETE FROM parcels WHERE pos <= ?", (pos,))


async def waiting(
    db: Database, device_nid: int, after: int, until: int, limit: int
) -> list[tuple[int, bytes]]:
    """Up to `limit` messages for a device at positions in (after, until], in order."""
    rows = await db.fetch(
        "SELECT pos, json FROM to_device WHERE device_nid = ? AND pos > ? AND pos <= ?"
        " ORDER BY pos LIMIT ?",
        device_nid,
        after,
        until,
        limit,
    )
    return [(row[0], row[1]) for row in rows]


async def positions_of(
    db: Database, device_nids: Collection[int], after: int, until: int
) -> list[tuple[int, int]]:
    """(position, device) of the messages for devices at positions in (after, until]."""
    rows = await db.scan(
        "SELECT pos, device_nid FROM to_device WHERE device_nid IN (??) AND pos > ? AND pos <= ?",
        device_nids,
        after,
        until,
    )
    return [(row[0], row[1]) for row in rows]


async def waiting_for(
    db: Database, device_nids: Collection[int], after: int, until: int
) -> list[tuple[int, int, bytes]]:
    """Position, device and JSON of the messages for devices at positions in (after, until]."""
    rows = await db.scan(
        "SELECT pos, device_nid, json FROM to_device"
        " WHERE device_nid IN (??) AND pos > ? AND pos <= ?",
        device_nids,
        after,
        until,
    )
    return [(row[0], row[1], row[2]) for row in rows]


async def devices_with_messages(db: Database, user_nids: Collection[int], after: int) -> list[int]:
    """The devices of local users for which messages wait at positions above `after`."""
    rows = await db.scan(
        "SELECT device_nid FROM devices WHERE user_nid IN (??) AND EXISTS"
        " (SELECT 1 FROM to_device WHERE to_device.device_nid = devices.device_nid AND pos > ?)",
        user_nids,
        after,
    )
    return [device_nid for (device_nid,) in rows]


async def span(db: Database, device_nid: int) -> tuple[int, int] | None:
    """The positions of the first and the last message for a device."""
    ((first, last),) = await db.fetch(
        "SELECT min(pos), max(pos) FROM to_device WHERE device_nid = ?", device_nid
    )
    return None if first is None else (first, last)


async def size(db: Database, device_nid: int) -> int:
    """How many messages wait for a device."""
    ((count,),) = await db.scan("SELECT count(*) FROM to_device WHERE device_nid = ?", device_nid)
    return int(count)


def received(device_nids: Collection[int], until: int) -> Change:
    """Devices have what stands up to a position."""
    return Do("DELETE FROM to_device WHERE device_nid IN (??) AND pos <= ?", (device_nids, until))


def dropped(device_nids: Collection[int]) -> Change:
    """Remove the messages for devices that are no more."""
    return Do("DELETE FROM to_device WHERE device_nid IN (??)", (device_nids,))


async def senders(db: Database, device_nid: int, after: int, limit: int) -> list[tuple[int, str]]:
    """(position, sender) of the first messages for a device behind a position, in order."""
    rows = await db.scan(
        "SELECT pos, json FROM to_device WHERE device_nid = ? AND pos > ? ORDER BY pos LIMIT ?",
        device_nid,
        after,
        limit,
    )
    return [(pos, _sent_by(json).sender) for pos, json in rows]


def removed(device_nid: int, positions: Collection[int]) -> Change:
    """Remove some of the messages for a device."""
    return Do("DELETE FROM to_device WHERE device_nid = ? AND pos IN (??)", (device_nid, positions))


async def known_messages(db: Database, source: str, message_ids: Collection[str]) -> set[str]:
    """Those of the transactions of a source that were taken already."""
    rows = await db.fetch(
        "SELECT message_id FROM message_ids WHERE source = ? AND message_id IN (??)",
        source,
        message_ids,
    )
    return {message_id for (message_id,) in rows}


def message_ids_forgotten(before: int) -> Change:
    """Forget transactions that were taken before a moment (ms)."""
    return Do("DELETE FROM message_ids WHERE ts < ?", (before,))
