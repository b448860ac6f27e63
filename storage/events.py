"""Reading events: rows, JSON, pages of a room's timeline, edges, redactions, transaction ids.

Every function is one statement; keys that do not exist are absent from its answer. Nothing here
decides who may see an event.
"""

from collections import defaultdict
from collections.abc import Collection
from typing import Any, NamedTuple

from storage.changes import Change, Delete, Do
from storage.compression import unpack_json
from storage.engine import Database
from storage.schema import REDACTED, EventJsonRow, EventRow, MassRedactionRow, TxnIdRow


class StoredEvent(NamedTuple):
    """An event's row and its PDU as canonical JSON."""

    row: EventRow
    json: bytes


async def event_rows(db: Database, event_nids: Collection[int]) -> dict[int, EventRow]:
    """Rows by number."""
    rows = await db.fetch(
        "SELECT event_nid, event_id, room_nid, pos, depth, type_nid, key_nid, sender_nid,"
        " origin_ts, snap_nid, flags, prevs, auths FROM events WHERE event_nid IN (??)",
        event_nids,
    )
    return {row[0]: EventRow(*row) for row in rows}


async def event_json(db: Database, event_nids: Collection[int]) -> dict[int, bytes]:
    """Canonical JSON by number."""
    rows = await db.fetch(
        "SELECT event_nid, json FROM event_json WHERE event_nid IN (??)", event_nids
    )
    return {event_nid: unpack_json(json) for event_nid, json in rows}


async def events(db: Database, event_nids: Collection[int]) -> dict[int, StoredEvent]:
    """Rows and JSON by number."""
    rows = await db.fetch(
        "SELECT events.event_nid, event_id, room_nid, pos, depth, type_nid, key_nid, sender_nid,"
        " origin_ts, snap_nid, flags, prevs, auths, json FROM events"
        " JOIN event_json ON event_json.event_nid = events.event_nid"
        " WHERE events.event_nid IN (??)",
        event_nids,
    )
    return {row[0]: _stored(row) for row in rows}


async def events_by_id(
    db: Database, room_nid: int, event_ids: Collection[str]
) -> dict[str, StoredEvent]:
    """Rows and JSON by event id, within one room: elsewhere the same id is another event."""
    rows = await db.fetch(
        "SELECT events.event_nid, event_id, room_nid, pos, depth, type_nid, key_nid, sender_nid,"
        " origin_ts, snap_nid, flags, prevs, auths, json FROM events"
        " JOIN event_json ON event_json.event_nid = events.event_nid"
        " WHERE event_id IN (??) AND room_nid = ?",
        event_ids,
        room_nid,
    )
    return {row[1]: _stored(row) for row in rows}


async def event_numbers(db: Database, room_nid: int, event_ids: Collection[str]) -> dict[str, int]:
    """Numbers by event id, within one room."""
    return dict(
        await db.fetch(
            "SELECT event_id, event_nid FROM events WHERE event_id IN (??) AND room_nid = ?",
            event_ids,
            room_nid,
        )
    )


async def event_ids(db: Database, event_nids: Collection[int]) -> dict[int, str]:
    """Event ids by number."""
    return dict(
        await db.fetch("SELECT event_nid, event_id FROM events WHERE event_nid IN (??)", event_nids)
    )


async def timeline(
    db: Database, room_nid: int, after: int, until: int, limit: int, *, newest_first: bool
) -> list[StoredEvent]:
    """Up to `limit` events of the room at positions in (after, until], from one end.

    Rejected and soft-failed events and outliers are left out.
    """
    if newest_first:
        rows = await db.fetch(
            "SELECT events.event_nid, event_id, room_nid, pos, depth, type_nid, key_nid,"
            " sender_nid, origin_ts, snap_nid, flags, prevs, auths, json FROM events"
            " JOIN event_json ON event_json.event_nid = events.event_nid"
            " WHERE room_nid = ? AND pos > ? AND pos <= ? AND (flags & 67) = 0"
            " ORDER BY pos DESC LIMIT ?",
            room_nid,
            after,
            until,
            limit,
        )
    else:
        rows = await db.fetch(
            "SELECT events.event_nid, event_id, room_nid, pos, depth, type_nid, key_nid,"
            " sender_nid, origin_ts, snap_nid, flags, prevs, auths, json FROM events"
            " JOIN event_json ON event_json.event_nid = events.event_nid"
            " WHERE room_nid = ? AND pos > ? AND pos <= ? AND (flags & 67) = 0"
            " ORDER BY pos LIMIT ?",
            room_nid,
            after,
            until,
            limit,
        )
    return [_stored(row) for row in rows]


async def last_of_types(
    db: Database, room_nid: int, type_nids: Collection[int], until: int, among: int
) -> int | None:
    """The position of the room's last event of some types, if it is `among` the last ones."""
    rows = await db.fetch(
        "SELECT max(pos) FROM (SELECT pos, type_nid FROM events WHERE room_nid = ? AND pos <= ?"
        " AND pos IS NOT NULL AND (flags & 67) = 0 ORDER BY pos DESC LIMIT ?) AS newest"
        " WHERE type_nid IN (??)",
        room_nid,
        until,
        among,
        type_nids,
    )
    pos: int | None = rows[0][0]
    return pos


async def senders(db: Database, event_nids: Collection[int]) -> dict[int, int]:
    """The senders (numbers) of events by number."""
    return dict(
        await db.fetch(
            "SELECT event_nid, sender_nid FROM events WHERE event_nid IN (??)", event_nids
        )
    )


async def near_time(
    db: Database, room_nid: int, ts: int, limit: int, *, backwards: bool
) -> list[int]:
    """The room's accepted events nearest to a time (ms) on one side of it, the nearest first."""
    if backwards:
        rows = await db.fetch(
            "SELECT event_nid FROM events WHERE room_nid = ? AND origin_ts <= ?"
            " AND pos IS NOT NULL AND (flags & 67) = 0 ORDER BY origin_ts DESC, pos DESC LIMIT ?",
            room_nid,
            ts,
            limit,
        )
    else:
        rows = await db.fetch(
            "SELECT event_nid FROM events WHERE room_nid = ? AND origin_ts >= ?"
            " AND pos IS NOT NULL AND (flags & 67) = 0 ORDER BY origin_ts, pos LIMIT ?",
            room_nid,
            ts,
            limit,
        )
    return [event_nid for (event_nid,) in rows]


async def children(db: Database, prev_nids: Collection[int]) -> dict[int, list[int]]:
    """The events that name each event as a previous one."""
    rows = await db.fetch(
        "SELECT prev_nid, event_nid FROM event_children WHERE prev_nid IN (??)"
        " ORDER BY prev_nid, event_nid",
        prev_nids,
    )
    return _grouped(rows)


async def children_of_missing(
    db: Database, room_nid: int, event_ids: Collection[str]
) -> dict[str, list[int]]:
    """The events that name each of these absent events as a previous one."""
    rows = await db.fetch(
        "SELECT event_id, child_nid FROM missing_prevs WHERE room_nid = ? AND event_id IN (??)"
        " ORDER BY event_id, child_nid",
        room_nid,
        event_ids,
    )
    return _grouped(rows)


async def missing_before(db: Database, room_nid: int, limit: int) -> list[str]:
    """Up to `limit` ids of absent events before which a room's history goes on."""
    rows = await db.fetch(
        "SELECT DISTINCT event_id FROM missing_prevs WHERE room_nid = ? LIMIT ?", room_nid, limit
    )
    return [event_id for (event_id,) in rows]


async def before_which_missing(db: Database, room_nid: int, limit: int) -> list[int]:
    """Up to `limit` events of a room before which others are absent."""
    rows = await db.fetch(
        "SELECT DISTINCT child_nid FROM missing_prevs WHERE room_nid = ? LIMIT ?", room_nid, limit
    )
    return [child_nid for (child_nid,) in rows]


async def first_position(db: Database, room_nid: int) -> int:
    """The position of the first event of a room's timeline, 0 when there is none."""
    rows = await db.fetch(
        "SELECT pos FROM events WHERE room_nid = ? AND pos IS NOT NULL ORDER BY pos LIMIT 1",
        room_nid,
    )
    return rows[0][0] if rows else 0


async def first_depth(db: Database, room_nid: int) -> int:
    """The depth of the first event of a room's timeline, 0 when there is none."""
    rows = await db.fetch(
        "SELECT depth FROM events WHERE room_nid = ? AND pos IS NOT NULL ORDER BY pos LIMIT 1",
        room_nid,
    )
    return rows[0][0] if rows else 0


async def auth_edges(db: Database, room_nid: int, after_nid: int) -> list[tuple[int, int, bytes]]:
    """(event_nid, key_nid, packed auth events) of a room's state events above a number."""
    rows = await db.scan(
        "SELECT event_nid, key_nid, auths FROM events WHERE room_nid = ? AND key_nid IS NOT NULL"
        " AND event_nid > ? ORDER BY event_nid",
        room_nid,
        after_nid,
    )
    return [(nid, key_nid, auths) for nid, key_nid, auths in rows]


async def redactions_of(
    db: Database, room_nid: int, redacted_ids: Collection[str]
) -> dict[str, list[int]]:
    """The redaction events of each event id, valid or not, lowest number first."""
    rows = await db.fetch(
        "SELECT redacts, event_nid FROM redactions WHERE room_nid = ? AND redacts IN (??)"
        " ORDER BY redacts, event_nid",
        room_nid,
        redacted_ids,
    )
    return _grouped(rows)


async def mass_redaction_of(db: Database, room_nid: int, user_nid: int) -> MassRedactionRow | None:
    """What is left to be redacted of all that a user has sent into a room."""
    rows = await db.fetch(
        "SELECT room_nid, user_nid, event_nid, before FROM mass_redactions"
        " WHERE room_nid = ? AND user_nid = ?",
        room_nid,
        user_nid,
    )
    return MassRedactionRow(*rows[0]) if rows else None


async def sent_event(db: Database, device_nid: int, path_hash: int, txn_id: str) -> int | None:
    """The number of the event that this device has sent under this transaction id."""
    rows = await db.fetch(
        "SELECT event_nid FROM txn_ids WHERE device_nid = ? AND path_hash = ? AND txn_id = ?",
        device_nid,
        path_hash,
        txn_id,
    )
    return rows[0][0] if rows else None


async def txn_ids(db: Database, device_nid: int, event_nids: Collection[int]) -> dict[int, str]:
    """The transaction ids of those of the events that this device has sent."""
    return dict(
        await db.fetch(
            "SELECT event_nid, txn_id FROM txn_ids WHERE event_nid IN (??) AND device_nid = ?",
            event_nids,
            device_nid,
        )
    )


class TailEvent(NamedTuple):
    """An event of a room's tail, newest first."""

    event_nid: int
    pos: int
    sender_nid: int
    flags: int
    type_nid: int
    is_state: bool


async def tail(db: Database, room_nid: int, after: int, until: int, limit: int) -> list[TailEvent]:
    """The last events at positions in (after, until], newest first."""
    rows = await db.fetch(
        "SELECT event_nid, pos, sender_nid, flags, type_nid, key_nid FROM events"
        " WHERE room_nid = ? AND pos > ? AND pos <= ?"
        " AND (flags & 67) = 0 ORDER BY pos DESC LIMIT ?",
        room_nid,
        after,
        until,
        limit,
    )
    return [
        TailEvent(nid, pos, sender_nid, flags, type_nid, key_nid is not None)
        for nid, pos, sender_nid, flags, type_nid, key_nid in rows
    ]


async def mentions(db: Database, user_nid: int, room_nid: int, after: int, until: int) -> set[int]:
    """The positions in (after, until] of the room's events that mention a local user."""
    rows = await db.fetch(
        "SELECT pos FROM mentions WHERE user_nid = ? AND room_nid = ? AND pos > ? AND pos <= ?",
        user_nid,
        room_nid,
        after,
        until,
    )
    return {pos for (pos,) in rows}


async def txns_of(db: Database, event_nids: Collection[int]) -> dict[int, tuple[int, str]]:
    """(device_nid, transaction id) with which each of the events was sent."""
    rows = await db.fetch(
        "SELECT event_nid, device_nid, txn_id FROM txn_ids WHERE event_nid IN (??)", event_nids
    )
    return {event_nid: (device_nid, txn_id) for event_nid, device_nid, txn_id in rows}


async def rooms_of_event(db: Database, event_id: str) -> list[int]:
    """The rooms that have an event of this id: one, but for forged ones of old versions."""
    rows = await db.fetch(
        "SELECT room_nid FROM events WHERE event_id = ? ORDER BY room_nid LIMIT 10", event_id
    )
    return [room_nid for (room_nid,) in rows]


async def txns_before(db: Database, ts: int, limit: int) -> list[Change]:
    """The changes that forget up to `limit` transaction ids used before `ts` (ms).

    Those of the oldest events come first; one that is younger than its neighbours may stay longer.
    """
    rows = await db.fetch(
        "SELECT device_nid, path_hash, txn_id, ts FROM txn_ids ORDER BY event_nid LIMIT ?", limit
    )
    return [Delete(TxnIdRow, row[:3]) for row in rows if row[3] < ts]


def event_renumbered(room_nid: int, user_nid: int, old_nid: int, new_nid: int) -> list[Change]:
    """Take a member event's rows away that will be written again as `new_nid`.

    The user's membership and its log name the new number then.
    """
    return [
        Delete(EventRow, (old_nid,)),
        Delete(EventJsonRow, (old_nid,)),
        Do(
            "UPDATE memberships SET event_nid = ?"
            " WHERE room_nid = ? AND user_nid = ? AND event_nid = ?",
            (new_nid, room_nid, user_nid, old_nid),
        ),
        Do(
            "UPDATE membership_log SET event_nid = ?"
            " WHERE user_nid = ? AND room_nid = ? AND event_nid = ?",
            (new_nid, user_nid, room_nid, old_nid),
        ),
    ]


def mark_redacted(event_nid: int) -> Change:
    """Mark that a redaction of the event took effect."""
    return Do(
        "UPDATE events SET flags = flags | ? WHERE event_nid = ?", (REDACTED, event_nid), expect=1
    )


def _stored(row: tuple[Any, ...]) -> StoredEvent:
    return StoredEvent(EventRow(*row[:-1]), unpack_json(row[-1]))


def _grouped(rows: list[tuple[Any, ...]]) -> dict[Any, list[int]]:
    groups: dict[Any, list[int]] = defaultdict(list)
    for key, value in rows:
        groups[key].append(value)
    return dict(groups)
