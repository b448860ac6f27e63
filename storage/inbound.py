"""What other servers have sent and rooms have not judged yet."""

from collections.abc import Collection

from storage.changes import Change, Do
from storage.engine import Database
from storage.schema import InboundPduRow


async def staged(
    db: Database, room_nid: int, now: int, after: int, limit: int
) -> list[InboundPduRow]:
    """Up to `limit` events of a room that may be tried at `now` (ms), in the order they came.

    `after` is the number (seq) of the last one that isn't wanted.
    """
    rows = await db.scan(
        "SELECT room_nid, event_id, seq, origin, pdu, verified, tries, retry_ts FROM inbound_pdus"
        " WHERE room_nid = ? AND seq > ? AND retry_ts <= ? ORDER BY seq LIMIT ?",
        room_nid,
        after,
        now,
        limit,
    )
    return [InboundPduRow(*row) for row in rows]


async def staged_rows(
    db: Database, room_nid: int, event_ids: Collection[str]
) -> list[InboundPduRow]:
    """Those of the events of a room that are staged, in the order of their ids."""
    rows = await db.fetch(
        "SELECT room_nid, event_id, seq, origin, pdu, verified, tries, retry_ts FROM inbound_pdus"
        " WHERE room_nid = ? AND event_id IN (??)",
        room_nid,
        event_ids,
    )
    found = {row[1]: InboundPduRow(*row) for row in rows}
    return [found[event_id] for event_id in event_ids if event_id in found]


async def verified_copies(db: Database, room_nid: int, event_ids: Collection[str]) -> set[str]:
    """Those of the events of a room of which a verified copy is staged."""
    rows = await db.fetch(
        "SELECT event_id FROM inbound_pdus WHERE room_nid = ? AND event_id IN (??)"
        " AND verified = 1",
        room_nid,
        event_ids,
    )
    return {event_id for (event_id,) in rows}


async def staged_by(db: Database, room_nid: int) -> dict[str, int]:
    """How many events of a room are staged for each server that has sent some."""
    rows = await db.fetch(
        "SELECT origin, count(*) FROM inbound_pdus WHERE room_nid = ? GROUP BY origin", room_nid
    )
    return dict(rows)


async def rooms_staged(db: Database, now: int, limit: int) -> set[int]:
    """Rooms with staged events that may be tried at `now` (ms): those of the first `limit`."""
    rows = await db.scan(
        "SELECT room_nid FROM inbound_pdus WHERE retry_ts <= ? ORDER BY retry_ts LIMIT ?",
        now,
        limit,
    )
    return {room_nid for (room_nid,) in rows}


async def is_staged(db: Database) -> bool:
    """Whether any event is staged, to be tried now or later."""
    return bool(await db.fetch("SELECT 1 FROM inbound_pdus LIMIT 1"))


async def answered(db: Database, server: str, txn_id: str) -> bytes | None:
    """The answer that a transaction was given."""
    rows = await db.fetch(
        "SELECT answer FROM inbound_txns WHERE server = ? AND txn_id = ?", server, txn_id
    )
    return rows[0][0] if rows else None


def staged_unverified(row: InboundPduRow, sender: str) -> Change:
    """Stage a copy that wasn't verified, unless there is one already.

    One that `sender`, the server of the event's sender, has sent itself takes the place of another
    unverified one; none takes the place of a verified one.
    """
    return Do(
        "INSERT INTO inbound_pdus"
        " (room_nid, event_id, seq, origin, pdu, verified, tries, retry_ts)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (room_nid, event_id) DO UPDATE SET seq = excluded.seq,"
        " origin = excluded.origin, pdu = excluded.pdu, tries = excluded.tries,"
        " retry_ts = excluded.retry_ts"
        " WHERE inbound_pdus.verified = 0 AND excluded.origin = ?",
        (*row, sender),
    )


def verified(row: InboundPduRow, pdu: bytes) -> Change:
    """An unverified row is verified now; `pdu` is what is to be judged."""
    return Do(
        "UPDATE inbound_pdus SET verified = 1, pdu = ?, retry_ts = 0"
        " WHERE room_nid = ? AND event_id = ? AND seq = ? AND verified = 0",
        (pdu, row.room_nid, row.event_id, row.seq),
    )


def put_off(row: InboundPduRow, tries: int, until: int) -> Change:
    """Try a row again at `until` (ms), unless another copy has come in its place."""
    return Do(
        "UPDATE inbound_pdus SET tries = ?, retry_ts = ?"
        " WHERE room_nid = ? AND event_id = ? AND seq = ?",
        (tries, until, row.room_nid, row.event_id, row.seq),
    )


def given_up(row: InboundPduRow) -> Change:
    """A row is not tried again; another copy that has come in its place stays."""
    return Do(
        "DELETE FROM inbound_pdus WHERE room_nid = ? AND event_id = ? AND seq = ?",
        (row.room_nid, row.event_id, row.seq),
    )


def judged(room_nid: int, event_ids: Collection[str]) -> Change:
    """Events were judged: they are staged no longer."""
    return Do(
        "DELETE FROM inbound_pdus WHERE room_nid = ? AND event_id IN (??)", (room_nid, event_ids)
    )


def unstaged(room_nid: int) -> Change:
    """Give up everything that is staged for a room."""
    return Do("DELETE FROM inbound_pdus WHERE room_nid = ?", (room_nid,))


def txns_forgotten(before: int) -> Change:
    """Forget transactions that were answered before that time (ms)."""
    return Do("DELETE FROM inbound_txns WHERE ts < ?", (before,))
