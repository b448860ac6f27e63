"""What other servers have sent and rooms have not judged yet."""

from collections.abc import Collection

from storage.changes import Change, Do
from storage.engine import Database
from storage.schema import InboundPduRow


async def staged(db: Database, room_nid: int, now: int, limit: int) -> list[InboundPduRow]:
    """Up to `limit` events of a room that may be tried at `now` (ms), in the order they came."""
    rows = await db.scan(
        "SELECT room_nid, event_id, seq, origin, pdu, verified, tries, retry_ts FROM inbound_pdus"
        " WHERE room_nid = ? AND retry_ts <= ? ORDER BY seq LIMIT ?",
        room_nid,
        now,
        limit,
    )
    return [InboundPduRow(*row) for row in rows]


async def staged_count(db: Database, room_nid: int, most: int) -> int:
    """How many events of a room are staged, at most `most`."""
    rows = await db.fetch(
        "SELECT count(*) FROM (SELECT 1 FROM inbound_pdus WHERE room_nid = ? LIMIT ?) AS counted",
        room_nid,
        most,
    )
    return int(rows[0][0])


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
