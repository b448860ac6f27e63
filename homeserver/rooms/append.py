"""What one accepted event changes.

Owns the translation of an event that is to stand at the room's head into rows, and the head's own
step forward. Invariant: everything derived from the event is in the same list of changes as the
event. It does not ask whether the event is allowed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from homeserver.matrix.event import Event
from homeserver.matrix.sticky import sticky_until
from homeserver.rooms.guest_access import guests_leave, turns_guests_away
from homeserver.rooms.head import Head
from homeserver.rooms.known_users import joined_user
from homeserver.rooms.membership import membership_number
from homeserver.rooms.mentions import default_flags, mention_rows, mentioned
from homeserver.rooms.redact_events import mass_redaction, redacts_events
from homeserver.rooms.related import related, unrelated
from homeserver.rooms.servers import MAX_STICKY, ServerMove, letters, server_moves, server_rows
from homeserver.rooms.shown import shown_no_more, stored_json
from homeserver.rooms.views import redacted_event
from homeserver.streams.numbers import Names, Numbers
from homeserver.streams.ring import StateChange
from storage.changes import Change, Delete, Insert, Pos, Put
from storage.events import mark_redacted
from storage.packing import pack_numbers
from storage.schema import (
    JOIN,
    LINEAR,
    LOCAL,
    CurrentStateRow,
    EventChildRow,
    EventRow,
    MembershipLogRow,
    MembershipRow,
    PduOutboxRow,
    RedactionRow,
    RoomHeadRow,
    RoomSummaryRow,
    StateChangeRow,
    StickyEventRow,
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
class MemberChange:
    """A user's current membership of the room changed; `event_nid` is the event that says so.

    `was` is the membership before, LEAVE for a stranger.
    """

    user_nid: int
    user_id: str
    membership: int
    event_nid: int
    was: int


@dataclass(frozen=True, slots=True)
class Appended:
    """An event that was put at the head, with what its publication needs.

    `pdu` is its canonical JSON; `servers` are the other servers whose first user came or whose last
    one left by it, `letters` the (server, event number) that go to servers beside their rooms'.
    `mentioned` are the local members (numbers) whom it mentions; `sticky_until` the moment (ms) up
    to which it is a sticky event, None for one that is none.
    """

    event: Event
    pdu: bytes
    nid: int
    flags: int
    txn: Txn | None
    state_changes: tuple[StateChange, ...]
    replaced: Event | None
    replaced_nid: int | None
    redacted: tuple[int, Event] | None
    members: tuple[MemberChange, ...]
    because: tuple[int, Event] | None
    servers: tuple[ServerMove, ...]
    letters: tuple[tuple[str, int], ...]
    mentioned: frozenset[int]
    sticky_until: int | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where an event from elsewhere stands, when it isn't simply behind all that is there.

    `nid` is its number (`stored`: its row exists already, as an outlier), `prevs` the numbers of
    its previous events, `extremities` the room's (number, id) after it, `snap_nid` the snapshot of
    the state before it, `changed` what it changes of the room's current state: key to (old, new).
    `events` has those of the named events that the head may lack; `flags` those of the row;
    `because` the (number, event) of a redaction of it that came before it.
    """

    nid: int
    stored: bool
    prevs: Sequence[int]
    extremities: Sequence[tuple[int, str]]
    snap_nid: int | None
    changed: Mapping[int, tuple[int | None, int | None]]
    events: Mapping[int, Event]
    flags: int
    because: tuple[int, Event] | None = None


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
    place: Place | None = None,
    now: int,
) -> tuple[Appended, list[Change]]:
    """Put `event` at the head of its room.

    `pdu` is its canonical JSON; `index` its place among the events of the same commit; `auth_nids`
    the numbers of its auth events; `redacted` the (number, event) that it redacts, if it does so;
    `place` is None for an event that stands behind all extremities. Returns what was appended and
    the changes. Raises `NamesMissing`, `EventsMissing`, `ServersMissing`, `StickyMissing` or
    `NumbersExhausted` before anything has changed. An event that is made here is ours to send; one
    that was placed is so only if its flags say it.
    """
    names = head.names
    room = head.room_nid
    type_nid, sender_nid = names.nid(event.type), names.nid(event.sender)
    key_nid = names.key_nid(event.type, event.state_key) if event.state_key is not None else None
    if not numbers.room_for("snapshot", 1):
        numbers.take("snapshot")
    if place is None:
        replaced_nid = head.state.get(key_nid) if key_nid is not None else None
        replaced = None if replaced_nid is None else head.loaded(replaced_nid)
        nid = numbers.take("event")
        named = set(event.prev_event_ids)
        prevs: Sequence[int] = [prev for prev, id_ in head.extremities if id_ in named]
        # A room with very many ends keeps those that did not go into this event.
        extremities: Sequence[tuple[int, str]] = (
            *(end for end in head.extremities if end[1] not in named),
            (nid, event.event_id),
        )
        snap_nid = head.snapshots.nid
        changed: Mapping[int, tuple[int | None, int | None]] = (
            {key_nid: (replaced_nid, nid)} if key_nid is not None else {}
        )
        flags = LINEAR | LOCAL
        known: Mapping[int, Event] = {nid: event}
    else:
        nid, prevs, extremities = place.nid, place.prevs, place.extremities
        snap_nid, changed = place.snap_nid, place.changed
        flags = place.flags
        known = {**place.events, nid: event}
        replaced_nid = place.changed.get(key_nid, (None, None))[0] if key_nid is not None else None
        replaced = None if replaced_nid is None else _known(head, known, replaced_nid)
    steps = [
        (key, old, new, _known(head, known, old), _known(head, known, new))
        for key, (old, new) in changed.items()
    ]
    # All that may be missing is asked for before the head is touched.
    moves = [_member_change(names, old, new, before, after) for _, old, new, before, after in steps]
    redacted_sender = names.nid(redacted[1].sender) if redacted is not None else 0
    if redacted is not None and redacted[1].state_key is not None:
        head.event_nid(*redacted[1].key)

    members = tuple(move for move in moves if move is not None)
    counted = [
        (move.user_id, before, after)
        for (_, _, _, before, after), move in zip(steps, moves, strict=True)
        if move is not None
    ]
    servers = server_moves(head, counted, local_server)
    emptied = [
        (move, numbers.take("job"))
        for (_, _, _, _, after), move in zip(steps, moves, strict=True)
        if move is not None and after is not None and redacts_events(head, after)
    ]
    closed = [
        numbers.take("job") for _, _, _, before, after in steps if turns_guests_away(before, after)
    ]
    beside = letters(head, event, nid, replaced, servers, extremities, flags, local_server, now)
    until = sticky_until(event, now) if place is None or place.because is None else None
    own = event.sender.endswith(":" + local_server)

    flags |= default_flags(head, event)
    concerned = mentioned(head, event, local_server)
    row = EventRow(
        event_nid=nid,
        event_id=event.event_id,
        room_nid=room,
        pos=Pos(index),
        depth=event.depth,
        type_nid=type_nid,
        key_nid=key_nid,
        sender_nid=sender_nid,
        origin_ts=event.origin_server_ts,
        snap_nid=snap_nid,
        flags=flags,
        prevs=pack_numbers(prevs),
        auths=pack_numbers(auth_nids),
    )
    for member in members:
        head.strangers.discard(member.user_id)
    because = place.because if place is not None else None
    if place is not None and place.stored:
        changes: list[Change] = [Put(row)]
        if because is not None:
            changes.extend(shown_no_more(nid, event, sender_nid, local_server, now))
    else:
        rows = stored_json(nid, pdu, local_server, redacted=because is not None)
        changes = [Insert(row), *rows]
    changes.extend(Insert(EventChildRow(prev, nid)) for prev in prevs)
    if until is not None:
        changes.append(Put(StickyEventRow(nid, room, Pos(index), until, int(own))))
        if own and head.sticky is not None:
            lasting = [(one, end) for one, end in head.sticky.items() if end > now]
            head.sticky = dict([*lasting[1 - MAX_STICKY :], (nid, until)])
    if concerned:
        changes.extend(mention_rows(room, index, concerned))
    if txn is not None:
        changes.append(Insert(TxnIdRow(txn.device_nid, txn.path_hash, txn.txn_id, nid, now)))
    if redacted is not None:
        changes.extend(_redacted(room, *redacted, redacted_sender, local_server, now))
    if event.redacts is not None:
        changes.append(Insert(RedactionRow(room, event.redacts, nid)))
    if because is None:
        changes.extend(related(room, event, nid, type_nid, sender_nid, Pos(index)))

    if steps:
        for key, _, new, _, _ in steps:
            if new is None:
                head.state.pop(key, None)
            else:
                head.state[key] = new
        snapshot = head.snapshots.add(numbers.take("snapshot"), room, head.state, changed)
        changes.append(Insert(snapshot))
        summary = head.summary
        for (key, old, new, before, after), move in zip(steps, moves, strict=True):
            changes.append(
                Delete(CurrentStateRow, (room, key))
                if new is None
                else Put(CurrentStateRow(room, key, new))
            )
            changes.append(Insert(StateChangeRow(room, Pos(index), key, old, new)))
            summary = summary_after(summary, after, before)
            if move is not None:
                changes.extend(_member_rows(room, index, move, local_server))
                if move.membership == JOIN and not move.user_id.endswith(":" + local_server):
                    changes.extend(joined_user(move.user_nid, after))
        changes.extend(server_rows(head, servers, Pos(index)))
        if summary != head.summary:
            head.summary = summary
            changes.append(Put(summary))

    changes.extend(guests_leave(room, job_nid, now) for job_nid in closed)
    for move, job_nid in emptied:
        changes.extend(
            mass_redaction(room, move.user_nid, move.event_nid, Pos(index), job_nid, now)
        )
    changes.extend(Insert(PduOutboxRow(server, Pos(index), one)) for server, one in beside)
    if redacted is not None:
        changes.extend(_redact_in_head(head, *redacted))
    head.events[nid] = event if because is None else redacted_event(event)
    head.extremities = list(extremities)
    head.mark(nid, (snap_nid, None if key_nid is None else nid))
    head.depth = max(head.depth, event.depth)
    changes.append(
        Put(
            RoomHeadRow(
                room_nid=room,
                extremities=head.packed_ends(),
                snap_nid=head.snapshots.nid or 0,
                depth=head.depth,
                last_pos=Pos(index),
            )
        )
    )
    appended = Appended(
        event=event,
        pdu=pdu,
        nid=nid,
        flags=flags,
        txn=txn,
        state_changes=tuple(StateChange(key, old, new) for key, old, new, _, _ in steps),
        replaced=replaced,
        replaced_nid=replaced_nid,
        redacted=redacted,
        members=members,
        because=because,
        servers=tuple(move for move in servers if move.crossed),
        letters=beside,
        mentioned=concerned,
        sticky_until=until,
    )
    return appended, changes


def _known(head: Head, known: Mapping[int, Event], nid: int | None) -> Event | None:
    if nid is None:
        return None
    return known.get(nid) or head.loaded(nid)


def _member_change(
    names: Names, old: int | None, new: int | None, before: Event | None, after: Event | None
) -> MemberChange | None:
    """What a change of state means for a member; one that vanishes from the state has left."""
    event = after or before
    if event is None or event.type != "m.room.member" or event.state_key is None:
        return None
    was, membership = (
        membership_number(one.content.get("membership") if one is not None else None)
        for one in (before, after)
    )
    user_nid = names.nid(event.state_key)
    return MemberChange(user_nid, event.state_key, membership, new or old or 0, was)


def _member_rows(room: int, index: int, member: MemberChange, local_server: str) -> list[Change]:
    rows: list[Change] = [
        Put(
            MembershipRow(
                room_nid=room,
                user_nid=member.user_nid,
                membership=member.membership,
                event_nid=member.event_nid,
                pos=Pos(index),
                flags=0,
                stripped=None,
            )
        )
    ]
    if member.user_id.endswith(":" + local_server):
        rows.append(
            Insert(
                MembershipLogRow(
                    member.user_nid, room, Pos(index), member.membership, member.event_nid
                )
            )
        )
    return rows


def redact(
    head: Head,
    nid: int,
    event: Event,
    by: tuple[int, Event],
    *,
    local_server: str,
    now: int,
) -> list[Change]:
    """What it changes that event `nid` of the room is redacted by (number, event) `by`, which was
    stored before and is no redaction of a single event.

    Raises `NamesMissing` before anything has changed.
    """
    sender_nid = head.names.nid(event.sender)
    is_current = event.state_key is not None and head.event_nid(*event.key) == nid
    changes = _redacted(head.room_nid, nid, event, sender_nid, local_server, now)
    changes.append(Put(RedactionRow(head.room_nid, event.event_id, by[0])))
    if is_current or nid in head.events:
        changes.extend(_redact_in_head(head, nid, event))
    return changes


def _redacted(
    room_nid: int, nid: int, event: Event, sender_nid: int, local_server: str, now: int
) -> list[Change]:
    """The rows of an event (as it was before) that change because it is redacted."""
    return [
        mark_redacted(nid),
        *unrelated(room_nid, nid, event),
        *shown_no_more(nid, event, sender_nid, local_server, now),
    ]


def _redact_in_head(head: Head, nid: int, event: Event) -> list[Change]:
    """The head forgets what the redaction takes from one of its events."""
    left = head.events[nid] = redacted_event(event)
    if event.state_key is None or head.event_nid(*event.key) != nid:
        return []
    summary = summary_after(head.summary, left, event)
    if summary == head.summary:
        return []
    head.summary = summary
    return [Put(summary)]


def summary_after(row: RoomSummaryRow, after: Event | None, before: Event | None) -> RoomSummaryRow:
    """The room's summary after the event of a state key was replaced, came or went."""
    event = after or before
    if event is None:
        return row
    if event.type == "m.room.member":
        counts = {"join": 0, "invite": 0}
        for member, step in ((before, -1), (after, 1)):
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
    value = after.content.get(key) if after is not None else None
    # An empty name is none; an empty join rule or type is one that nobody knows. What holds a NUL,
    # as events from elsewhere may, PostgreSQL could not keep.
    stands = (
        isinstance(value, str)
        and "\0" not in value
        and (value or default is not None or field == "room_type")
    )
    changed: dict[str, Any] = {field: value if stands else default}
    return row._replace(**changed)


def summary_text(event: Event) -> str | None:
    """The text that the event contributes to its room's summary, if there is one."""
    summed_up = _SUMMED_UP.get(event.type) if event.state_key == "" else None
    value = event.content.get(summed_up[1]) if summed_up is not None else None
    return value if isinstance(value, str) else None
