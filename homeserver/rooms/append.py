"""What one accepted event changes.

Owns the translation of an event that is to stand at the room's head into rows, and the head's own
step forward. Invariant: everything derived from the event is in the same list of changes as the
event. It does not ask whether the event is allowed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from homeserver.matrix.event import Event
from homeserver.rooms.head import Head
from homeserver.rooms.membership import membership_number
from homeserver.rooms.views import redacted_event
from homeserver.streams.numbers import Numbers
from homeserver.streams.ring import StateChange
from storage.changes import Change, Insert, Pos, Put
from storage.compression import pack_json
from storage.events import mark_redacted
from storage.packing import pack_numbers
from storage.schema import (
    LINEAR,
    LOCAL,
    NOTIFIES,
    CurrentStateRow,
    EventChildRow,
    EventJsonRow,
    EventRow,
    MembershipLogRow,
    MembershipRow,
    RedactionRow,
    RoomHeadRow,
    RoomSummaryRow,
    StateChangeRow,
    TxnIdRow,
)

# By event type with an empty state key: field of the summary, key of the content, default.
_SUMMED_UP: dict[str, tuple[str, str, str | None]] = {
    "m.room.create": ("room_type", "type", None),
    "m.room.name": ("name", "name", None),
    "m.room.topic": ("topic", "topic", None),
    "m.room.avatar": ("avatar", "url", None),
    "m.room.canonical_alias": ("alias", "alias", None),
    "m.room.encryption": ("encryption", "algorithm", None),
    "m.room.join_rules": ("join_rule", "join_rule", "invite"),
    "m.room.history_visibility": ("visibility", "history_visibility", "shared"),
    "m.room.guest_access": ("guest_access", "guest_access", "forbidden"),
}


@dataclass(frozen=True, slots=True)
class Txn:
    """A client's transaction: its device (number), the hash of the path, and the id it chose."""

    device_nid: int
    path_hash: int
    txn_id: str


@dataclass(frozen=True, slots=True)
class Appended:
    """An event that was put at the head, with what its publication needs."""

    event: Event
    nid: int
    flags: int
    txn: Txn | None
    state_changes: tuple[StateChange, ...]
    replaced: Event | None
    redacted: tuple[int, Event] | None
    member_nid: int | None
    membership: int | None


def append(
    head: Head,
    numbers: Numbers,
    event: Event,
    pdu: bytes,
    *,
    index: int,
    auth_nids: Sequence[int],
    local_server: str,
    txn: Txn | None = None,
    redacted: tuple[int, Event] | None = None,
    now: int,
) -> tuple[Appended, list[Change]]:
    """Put `event` at the head of its room.

    `pdu` is its canonical JSON; `index` its place among the events of the same commit; `auth_nids`
    the numbers of its auth events; `redacted` the (number, event) that it redacts, if it does so.
    Returns what was appended and the changes. Raises `NamesMissing`, `EventsMissing` or
    `NumbersExhausted` before anything has changed.
    """
    names = head.names
    is_state = event.state_key is not None
    nid_type = names.nid(event.type)
    nid_sender = names.nid(event.sender)
    key_nid = names.key_nid(event.type, event.state_key) if event.state_key is not None else None
    member_nid: int | None = None
    if event.type == "m.room.member" and event.state_key is not None:
        member_nid = names.nid(event.state_key)
    if redacted is not None and redacted[1].state_key is not None:
        head.event_nid(*redacted[1].key)
    replaced: Event | None = None
    old_nid: int | None = None
    if key_nid is not None:
        old_nid = head.state.get(key_nid)
        if old_nid is not None:
            replaced = head.loaded(old_nid)
    if is_state and not numbers.room_for("snapshot", 1):
        numbers.take("snapshot")
    nid = numbers.take("event")

    flags = LINEAR
    local = event.sender.endswith(":" + local_server)
    if local:
        flags |= LOCAL
    if not is_state and _notifies(event):
        flags |= NOTIFIES
    room = head.room_nid
    changes: list[Change] = [
        Insert(
            EventRow(
                event_nid=nid,
                event_id=event.event_id,
                room_nid=room,
                pos=Pos(index),
                depth=event.depth,
                type_nid=nid_type,
                key_nid=key_nid,
                sender_nid=nid_sender,
                origin_ts=event.origin_server_ts,
                snap_nid=head.snapshots.nid,
                flags=flags,
                prevs=pack_numbers([prev for prev, _ in head.extremities]),
                auths=pack_numbers(auth_nids),
            )
        ),
        Insert(EventJsonRow(nid, pack_json(pdu))),
    ]
    changes.extend(Insert(EventChildRow(prev, nid)) for prev, _ in head.extremities)
    if txn is not None:
        changes.append(Insert(TxnIdRow(txn.device_nid, txn.path_hash, txn.txn_id, nid, now)))
    if redacted is not None:
        changes.append(mark_redacted(redacted[0]))
    if event.redacts is not None:
        changes.append(Insert(RedactionRow(room, event.redacts, nid)))

    state_changes: tuple[StateChange, ...] = ()
    membership: int | None = None
    if key_nid is not None:
        snap_nid = numbers.take("snapshot")
        head.state[key_nid] = nid
        changes.append(
            Insert(head.snapshots.add(snap_nid, room, head.state, {key_nid: (old_nid, nid)}))
        )
        changes.append(Put(CurrentStateRow(room, key_nid, nid)))
        changes.append(Insert(StateChangeRow(room, Pos(index), key_nid, old_nid, nid)))
        state_changes = (StateChange(key_nid, old_nid, nid),)
        summary = _summary_after(head.summary, event, replaced)
        if member_nid is not None and event.state_key is not None:
            membership = membership_number(event.content.get("membership"))
            changes.append(
                Put(
                    MembershipRow(
                        room_nid=room,
                        user_nid=member_nid,
                        membership=membership,
                        event_nid=nid,
                        pos=Pos(index),
                        flags=0,
                        stripped=None,
                    )
                )
            )
            if event.state_key.endswith(":" + local_server):
                changes.append(
                    Insert(MembershipLogRow(member_nid, room, Pos(index), membership, nid))
                )
        if summary != head.summary:
            head.summary = summary
            changes.append(Put(summary))

    if redacted is not None:
        changes.extend(_redact_in_head(head, *redacted))
    head.events[nid] = event
    head.extremities = [(nid, event.event_id)]
    head.depth = event.depth
    changes.append(
        Put(
            RoomHeadRow(
                room_nid=room,
                extremities=pack_numbers([nid]),
                snap_nid=head.snapshots.nid or 0,
                depth=event.depth,
                last_pos=Pos(index),
            )
        )
    )
    appended = Appended(
        event=event,
        nid=nid,
        flags=flags,
        txn=txn,
        state_changes=state_changes,
        replaced=replaced,
        redacted=redacted,
        member_nid=member_nid,
        membership=membership,
    )
    return appended, changes


def _redact_in_head(head: Head, nid: int, event: Event) -> list[Change]:
    """The head forgets what the redaction takes from one of its events."""
    left = head.events[nid] = redacted_event(event)
    if event.state_key is None or head.event_nid(*event.key) != nid:
        return []
    summary = _summary_after(head.summary, left, event)
    if summary == head.summary:
        return []
    head.summary = summary
    return [Put(summary)]


def _notifies(event: Event) -> bool:
    """Whether the default push rules notify members of it.

    spec: client-server-api#default-underride-rules
    """
    relates = event.content.get("m.relates_to")
    if isinstance(relates, dict) and relates.get("rel_type") == "m.replace":
        return False
    if event.type == "m.room.encrypted":
        return True
    return event.type == "m.room.message" and event.content.get("msgtype") != "m.notice"


def _summary_after(row: RoomSummaryRow, event: Event, replaced: Event | None) -> RoomSummaryRow:
    """The room's summary after a state event."""
    if event.type == "m.room.member":
        counts = {"join": 0, "invite": 0}
        for member, step in ((replaced, -1), (event, 1)):
            membership = member.content.get("membership") if member is not None else None
            if membership in counts:
                counts[membership] += step
        return row._replace(
            joined=row.joined + counts["join"], invited=row.invited + counts["invite"]
        )
    summed_up = _SUMMED_UP.get(event.type) if event.state_key == "" else None
    if summed_up is None:
        return row
    field, key, default = summed_up
    value = event.content.get(key)
    # An empty name is none; an empty join rule or type is one that nobody knows.
    stands = isinstance(value, str) and (value or default is not None or field == "room_type")
    changed: dict[str, Any] = {field: value if stands else default}
    return row._replace(**changed)


def summary_text(event: Event) -> str | None:
    """The text that the event contributes to its room's summary, if there is one."""
    summed_up = _SUMMED_UP.get(event.type) if event.state_key == "" else None
    value = event.content.get(summed_up[1]) if summed_up is not None else None
    return value if isinstance(value, str) else None
