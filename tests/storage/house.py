"""One small room with everything that hangs on it, as a server would have written it.

Alice makes the room, names it, invites Bob, Bob joins, Alice says two things and takes one back.
"""

import json
from dataclasses import dataclass

from storage.changes import Change, Insert, Item, Pos, Put
from storage.engine import Database
from storage.packing import pack_entries, pack_numbers
from storage.schema import (
    INVITE,
    JOIN,
    LINEAR,
    LOCAL,
    REDACTED,
    AccessTokenRow,
    AliasRow,
    CurrentStateRow,
    DeviceRow,
    EventChildRow,
    EventJsonRow,
    EventRow,
    MembershipLogRow,
    MembershipRow,
    ReceiptRow,
    RedactionRow,
    RoomHeadRow,
    RoomRow,
    RoomSummaryRow,
    SnapshotRow,
    StateChangeRow,
    TxnIdRow,
    UserRow,
)

ROOM = 1
DEVICE = 5
EVENTS: tuple[tuple[str, str | None, str, dict[str, str]], ...] = (
    ("m.room.create", "", "alice", {"creator": "@alice:here"}),
    ("m.room.member", "@alice:here", "alice", {"membership": "join"}),
    ("m.room.name", "", "alice", {"name": "House"}),
    ("m.room.join_rules", "", "alice", {"join_rule": "public"}),
    ("m.room.member", "@bob:here", "alice", {"membership": "invite"}),
    ("m.room.member", "@bob:here", "bob", {"membership": "join"}),
    ("m.room.message", None, "alice", {"body": "one"}),
    ("m.room.message", None, "alice", {"body": "two"}),
    ("m.room.redaction", None, "alice", {}),
)


@dataclass(frozen=True)
class House:
    """Numbers of the names and state keys in the room; events are numbered 1 to 9 from pos 1."""

    names: dict[str, int]
    keys: dict[tuple[str, str], int]


async def build(database: Database) -> House:
    """Write the room."""
    texts = {text for kind, key, _, _ in EVENTS for text in (kind, key) if text is not None}
    names = await database.intern(texts)
    pairs = {(kind, key) for kind, key, _, _ in EVENTS if key is not None}
    numbers = await database.intern_keys([(names[kind], names[key]) for kind, key in pairs])
    keys = {(kind, key): numbers[names[kind], names[key]] for kind, key in pairs}
    alice, bob = names["@alice:here"], names["@bob:here"]
    changes: list[Change] = [
        Insert(RoomRow(ROOM, "!house:here", "10", 1, 0)),
        Insert(UserRow(alice, "alice", "hash", 1, 0)),
        Insert(UserRow(bob, "bob", None, 0, 0)),
        Insert(DeviceRow(DEVICE, alice, "PHONE", "phone", None, None)),
        Insert(AccessTokenRow(b"token", DEVICE, alice, None)),
        Insert(AliasRow("#house:here", ROOM, alice)),
        Insert(RedactionRow(ROOM, "$8", 9)),
        Insert(TxnIdRow(DEVICE, 77, "m1", 7, 0)),
        Put(ReceiptRow(ROOM, bob, 1, "", "$7", Pos(6), 0, Pos(9))),
    ]
    state: dict[int, int] = {}
    snap: int | None = None
    for nid, (kind, state_key, sender, content) in enumerate(EVENTS, 1):
        key = None if state_key is None else keys[kind, state_key]
        changes += [
            Insert(
                EventRow(
                    event_nid=nid,
                    event_id=f"${nid}",
                    room_nid=ROOM,
                    pos=Pos(nid - 1),
                    depth=nid,
                    type_nid=names[kind],
                    key_nid=key,
                    sender_nid=names[f"@{sender}:here"],
                    origin_ts=nid,
                    snap_nid=snap,
                    flags=LINEAR | LOCAL | (REDACTED if nid == 8 else 0),
                    prevs=pack_numbers([nid - 1] if nid > 1 else []),
                    auths=pack_numbers([1] if nid > 1 else []),
                )
            ),
            Insert(EventJsonRow(nid, json.dumps({"content": content}).encode())),
        ]
        if nid > 1:
            changes.append(Insert(EventChildRow(nid - 1, nid)))
        if key is None or state_key is None:
            continue
        changes.append(Insert(StateChangeRow(ROOM, Pos(nid - 1), key, state.get(key), nid)))
        state[key] = nid
        parent, snap = snap, nid
        entries: dict[int, int | None] = {key: nid}
        changes += [
            Put(CurrentStateRow(ROOM, key, nid)),
            Insert(_snapshot(nid, parent, len(state), pack_entries(entries))),
        ]
        if kind == "m.room.member":
            membership = JOIN if content["membership"] == "join" else INVITE
            user = names[state_key]
            changes += [
                Put(MembershipRow(ROOM, user, membership, nid, Pos(nid - 1), 0, None)),
                Insert(MembershipLogRow(user, ROOM, Pos(nid - 1), membership, nid)),
            ]
    changes += [
        Insert(RoomHeadRow(ROOM, pack_numbers([9]), snap or 0, 9, Pos(8))),
        Insert(
            RoomSummaryRow(
                room_nid=ROOM,
                name="House",
                topic=None,
                avatar=None,
                alias=None,
                room_type=None,
                join_rule="public",
                visibility="shared",
                encryption=None,
                guest_access="forbidden",
                joined=2,
                invited=0,
                published=1,
            )
        ),
    ]
    await database.commit([Item(changes, 10)])
    return House(names, keys)


def _snapshot(nid: int, parent: int | None, size: int, entries: bytes) -> SnapshotRow:
    """A keyframe first, then deltas of one change."""
    level = 0 if parent is None else 2
    anchor = None if level == 0 else 1
    return SnapshotRow(nid, ROOM, parent, anchor, level, size, b"hash", entries)
