"""Reading and changing the keys of devices: identity, one-time and fallback keys, signatures.

A one-time key is claimed by one statement, so two claims never take the same; what it took is read
afterwards by the claim's number. Which signatures are good is not asked here.
"""

from collections import defaultdict
from collections.abc import Collection
from typing import NamedTuple

from storage.changes import Change, Do
from storage.engine import Database
from storage.schema import (
    DehydratedDeviceRow,
    FallbackKeyRow,
    KeySignatureRow,
    SigningKeyRow,
)
from storage.to_device import dropped

_FEW = 50


class KeyedDevice(NamedTuple):
    """A local device that has identity keys."""

    user_nid: int
    device_nid: int
    device_id: str
    name: str | None
    json: bytes


async def keyed_devices(db: Database, user_nids: Collection[int]) -> list[KeyedDevice]:
    """The devices of local users that have identity keys, in order of user and device id."""
    read = db.fetch if len(user_nids) <= _FEW else db.scan
    rows = await read(
        "SELECT devices.user_nid, devices.device_nid, device_id, name, json FROM devices"
        " JOIN device_keys ON device_keys.device_nid = devices.device_nid"
        " WHERE devices.user_nid IN (??) ORDER BY devices.user_nid, device_id",
        user_nids,
    )
    return [KeyedDevice(*row) for row in rows]


async def device_keys(db: Database, device_nids: Collection[int]) -> dict[int, bytes]:
    """The identity keys (JSON) of local devices."""
    return dict(
        await db.fetch(
            "SELECT device_nid, json FROM device_keys WHERE device_nid IN (??)", device_nids
        )
    )


async def one_time_digests(
    db: Database, device_nid: int, algorithm: str, key_ids: Collection[str]
) -> dict[str, bytes]:
    """The digests of those of a device's one-time keys that were ever uploaded."""
    return dict(
        await db.fetch(
            "SELECT key_id, digest FROM one_time_keys"
            " WHERE device_nid = ? AND algorithm = ? AND key_id IN (??)",
            device_nid,
            algorithm,
            key_ids,
        )
    )


async def one_time_counts(db: Database, device_nids: Collection[int]) -> dict[int, dict[str, int]]:
    """By device and algorithm, how many of the one-time keys nobody has claimed."""
    read = db.fetch if len(device_nids) <= _FEW else db.scan
    found: dict[int, dict[str, int]] = defaultdict(dict)
    for device_nid, algorithm, count in await read(
        "SELECT device_nid, algorithm, count(*) FROM one_time_keys"
        " WHERE device_nid IN (??) AND claim_nid IS NULL GROUP BY device_nid, algorithm",
        device_nids,
    ):
        found[device_nid][algorithm] = count
    return dict(found)


async def fallback_keys(
    db: Database, device_nids: Collection[int]
) -> dict[int, dict[str, FallbackKeyRow]]:
    """By device and algorithm, the fallback keys."""
    found: dict[int, dict[str, FallbackKeyRow]] = defaultdict(dict)
    read = db.fetch if len(device_nids) <= _FEW else db.scan
    for row in await read(
        "SELECT device_nid, algorithm, key_id, json, used FROM fallback_keys"
        " WHERE device_nid IN (??)",
        device_nids,
    ):
        found[row[0]][row[1]] = FallbackKeyRow(*row)
    return dict(found)


def claimed(claim_nid: int, device_nids: Collection[int], algorithm: str) -> list[Change]:
    """Claim the oldest one-time key of each device, or mark its fallback key as used."""
    return [
        Do(
            "UPDATE one_time_keys SET claim_nid = ? WHERE key_nid IN (SELECT min(key_nid)"
            " FROM one_time_keys WHERE device_nid IN (??) AND algorithm = ?"
            " AND claim_nid IS NULL GROUP BY device_nid)",
            (claim_nid, device_nids, algorithm),
        ),
        Do(
            "UPDATE fallback_keys SET used = 1 WHERE device_nid IN (??) AND algorithm = ?"
            " AND used = 0 AND device_nid NOT IN (SELECT device_nid FROM one_time_keys"
            " WHERE claim_nid = ? AND claim_nid IS NOT NULL AND algorithm = ?)",
            (device_nids, algorithm, claim_nid, algorithm),
        ),
    ]


async def taken(db: Database, claim_nid: int) -> list[tuple[int, str, str, bytes]]:
    """What a claim has taken: device, algorithm, key id, JSON."""
    rows = await db.fetch(
        "SELECT device_nid, algorithm, key_id, json FROM one_time_keys"
        " WHERE claim_nid = ? AND claim_nid IS NOT NULL",
        claim_nid,
    )
    return [(row[0], row[1], row[2], row[3]) for row in rows]


def delivered(claim_nid: int) -> Change:
    """A claim was read: only the keys' ids stay."""
    return Do(
        "UPDATE one_time_keys SET json = ? WHERE claim_nid = ? AND claim_nid IS NOT NULL",
        (b"", claim_nid),
    )


def devices_gone(device_nids: Collection[int]) -> list[Change]:
    """Remove everything of devices that end: keys, messages, what restores them."""
    return [
        Do("DELETE FROM device_keys WHERE device_nid IN (??)", (device_nids,)),
        *pools_gone(device_nids),
        dropped(device_nids),
    ]


def pools_gone(device_nids: Collection[int]) -> list[Change]:
    """Remove all one-time and fallback keys of devices, and what is known of their ids."""
    return [
        Do("DELETE FROM one_time_keys WHERE device_nid IN (??)", (device_nids,)),
        Do("DELETE FROM fallback_keys WHERE device_nid IN (??)", (device_nids,)),
    ]


def signatures_gone(user_nid: int, key_names: Collection[str]) -> Change:
    """Remove a user's own signatures on keys that end."""
    return Do(
        "DELETE FROM key_signatures WHERE signer_nid = ? AND user_nid = ? AND key_name IN (??)",
        (user_nid, user_nid, key_names),
    )


def signing_gone(user_nid: int) -> list[Change]:
    """A master key is replaced: the keys that it vouched for, and what they signed, end with it."""
    return [
        Do("DELETE FROM signing_keys WHERE user_nid = ?", (user_nid,)),
        Do("DELETE FROM key_signatures WHERE signer_nid = ?", (user_nid,)),
    ]


def user_gone(user_nid: int) -> list[Change]:
    """Remove what a closed account has of keys beside its devices: signing keys and backups."""
    return [
        Do("DELETE FROM signing_keys WHERE user_nid = ?", (user_nid,)),
        Do("DELETE FROM key_signatures WHERE signer_nid = ?", (user_nid,)),
        Do("DELETE FROM dehydrated_devices WHERE user_nid = ?", (user_nid,)),
        Do("DELETE FROM backup_keys WHERE user_nid = ?", (user_nid,)),
        Do("UPDATE backups SET deleted = 1 WHERE user_nid = ?", (user_nid,)),
    ]


async def signing_keys(
    db: Database, user_nids: Collection[int]
) -> dict[int, dict[int, SigningKeyRow]]:
    """By user and usage, the cross-signing keys."""
    found: dict[int, dict[int, SigningKeyRow]] = defaultdict(dict)
    read = db.fetch if len(user_nids) <= _FEW else db.scan
    for row in await read(
        "SELECT user_nid, usage, json FROM signing_keys WHERE user_nid IN (??)", user_nids
    ):
        found[row[0]][row[1]] = SigningKeyRow(*row)
    return dict(found)


async def own_signatures(
    db: Database, user_nids: Collection[int]
) -> dict[int, list[KeySignatureRow]]:
    """By user, the signatures uploaded on the user's own keys, by the user."""
    found: dict[int, list[KeySignatureRow]] = defaultdict(list)
    read = db.fetch if len(user_nids) <= _FEW else db.scan
    for row in await read(
        "SELECT signer_nid, user_nid, key_name, signer_key, signature, pos FROM key_signatures"
        " WHERE signer_nid IN (??) AND user_nid = signer_nid",
        user_nids,
    ):
        found[row[1]].append(KeySignatureRow(*row))
    return dict(found)


async def signatures_by(
    db: Database, signer_nid: int, user_nids: Collection[int]
) -> dict[int, list[KeySignatureRow]]:
    """By user, the signatures that one user uploaded on others' keys."""
    found: dict[int, list[KeySignatureRow]] = defaultdict(list)
    for row in await db.fetch(
        "SELECT signer_nid, user_nid, key_name, signer_key, signature, pos FROM key_signatures"
        " WHERE signer_nid = ? AND user_nid IN (??)",
        signer_nid,
        user_nids,
    ):
        found[row[1]].append(KeySignatureRow(*row))
    return dict(found)


async def dehydrated(db: Database, user_nids: Collection[int]) -> dict[int, DehydratedDeviceRow]:
    """The dehydrated devices of users."""
    rows = await db.fetch(
        "SELECT user_nid, device_nid, json FROM dehydrated_devices WHERE user_nid IN (??)",
        user_nids,
    )
    return {row[0]: DehydratedDeviceRow(*row) for row in rows}


def pools_emptied() -> list[Change]:
    """Drop all one-time keys of all devices; ids that were given out stay known."""
    return [
        Do("DELETE FROM one_time_keys WHERE claim_nid IS NULL"),
        Do("UPDATE fallback_keys SET used = 1"),
    ]


def pool_emptied(device_nid: int) -> list[Change]:
    """As `pools_emptied`, of one device."""
    return [
        Do("DELETE FROM one_time_keys WHERE device_nid = ? AND claim_nid IS NULL", (device_nid,)),
        Do("UPDATE fallback_keys SET used = 1 WHERE device_nid = ?", (device_nid,)),
    ]
