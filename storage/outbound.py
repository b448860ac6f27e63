"""Reading what is to be sent to other servers: who is in a room and was, events of ours, EDUs.

Every function is one statement. Positions below zero are of history that was fetched from others,
which is never sent.
"""

from collections import defaultdict
from collections.abc import Collection
from typing import NamedTuple

from storage.changes import Do
from storage.engine import Database
from storage.schema import (
    REJECTED,
    SOFT_FAILED,
    EduOutboxRow,
    PduOutboxRow,
)


class OwnEvent(NamedTuple):
    """An event that is ours to send, and where it stands."""

    pos: int
    room_nid: int
    event_nid: int


class WaitingEdu(NamedTuple):
    """An EDU that a server must have; `row` is its place in the outbox, `content` JSON."""

    row: EduOutboxRow
    type: str
    content: bytes


async def joined_of_servers(
    db: Database, room_nid: int, server_nids: Collection[int]
) -> dict[int, int]:
    """How many users of these servers are joined in a room; those without any are absent."""
    return dict(
        await db.fetch(
            "SELECT server_nid, joined FROM room_servers WHERE room_nid = ? AND server_nid IN (??)",
            room_nid,
            server_nids,
        )
    )


async def servers_in(db: Database, room_nids: Collection[int]) -> dict[int, set[str]]:
    """By room, the names of the other servers that have a joined user there."""
    found: dict[int, set[str]] = {}
    for room_nid, server in await db.scan(
        "SELECT room_nid, name FROM room_servers JOIN names ON name_nid = server_nid"
        " WHERE room_nid IN (??)",
        room_nids,
    ):
        found.setdefault(room_nid, set()).add(server)
    return found


async def joined_by_server(db: Database, room_nid: int) -> dict[str, int]:
    """How many joined users of each other server are counted in a room."""
    return dict(
        await db.scan(
            "SELECT name, joined FROM room_servers JOIN names ON name_nid = server_nid"
            " WHERE room_nid = ?",
            room_nid,
        )
    )


async def servers_at(db: Database, room_nid: int, pos: int) -> set[str]:
    """The names of the other servers that were in a room after position `pos`."""
    rows = await db.scan(
        "SELECT name FROM server_stays AS last JOIN names ON name_nid = server_nid"
        " WHERE room_nid = ? AND inside = 1 AND pos = (SELECT max(earlier.pos)"
        " FROM server_stays AS earlier WHERE earlier.room_nid = last.room_nid"
        " AND earlier.server_nid = last.server_nid AND earlier.pos <= ?)",
        room_nid,
        pos,
    )
    return {name for (name,) in rows}


async def servers_ever_in(db: Database, room_nids: Collection[int]) -> set[str]:
    """The names of the other servers that are or were in any of the rooms."""
    rows = await db.scan(
        "SELECT DISTINCT name FROM server_stays JOIN names ON name_nid = server_nid"
        " WHERE room_nid IN (??)",
        room_nids,
    )
    return {name for (name,) in rows}


async def rooms_shared(db: Database, servers: Collection[str]) -> dict[str, set[int]]:
    """By server, the rooms in which it has a joined user."""
    found: dict[str, set[int]] = defaultdict(set)
    for server, room_nid in await db.scan(
        "SELECT name, room_nid FROM names JOIN room_servers ON server_nid = name_nid"
        " WHERE name IN (??)",
        servers,
    ):
        found[server].add(room_nid)
    return dict(found)


async def stays_of(db: Database, server: str) -> dict[int, list[tuple[int, bool]]]:
    """By room, the (position, inside) at which a server came and went, in order."""
    found: dict[int, list[tuple[int, bool]]] = defaultdict(list)
    for room_nid, pos, inside in await db.scan(
        "SELECT room_nid, pos, inside FROM server_stays WHERE server_nid ="
        " (SELECT name_nid FROM names WHERE name = ?) ORDER BY pos",
        server,
    ):
        found[room_nid].append((pos, bool(inside)))
    return dict(found)


async def stays_in(db: Database, room_nid: int, server: str) -> list[tuple[int, bool]]:
    """The (position, inside) at which a server came into a room and left it, in order."""
    rows = await db.fetch(
        "SELECT pos, inside FROM server_stays WHERE room_nid = ? AND server_nid ="
        " (SELECT name_nid FROM names WHERE name = ?) ORDER BY pos",
        room_nid,
        server,
    )
    return [(pos, bool(inside)) for pos, inside in rows]


async def own_events(db: Database, after: int, until: int, limit: int) -> list[OwnEvent]:
    """Up to `limit` events that are ours to send at positions in (after, until], in order."""
    rows = await db.scan(
        "SELECT pos, room_nid, event_nid FROM events WHERE pos > ? AND pos <= ?"
        " AND (flags & 16) <> 0 AND (flags & ?) = 0 ORDER BY pos LIMIT ?",
        after,
        until,
        REJECTED | SOFT_FAILED,
        limit,
    )
    return [OwnEvent(*row) for row in rows]


async def deliveries(db: Database) -> dict[str, int]:
    """Up to which position each server that is behind has had everything, and ("") all others."""
    return {row[0]: row[1] for row in await db.scan("SELECT server, pos FROM deliveries")}


async def next_server_with_edus(db: Database, after: str) -> str | None:
    """The first server, by name, behind another's for which EDUs wait."""
    rows = await db.fetch(
        "SELECT server FROM edu_outbox WHERE server > ? ORDER BY server LIMIT 1", after
    )
    return rows[0][0] if rows else None


async def next_server_with_pdus(db: Database, after: str) -> str | None:
    """The first server, by name, behind another's for which events wait beside its rooms'."""
    rows = await db.fetch(
        "SELECT server FROM pdu_outbox WHERE server > ? ORDER BY server LIMIT 1", after
    )
    return rows[0][0] if rows else None


async def pdus_waiting(db: Database, server: str, after: int) -> list[PduOutboxRow]:
    """The events beside its rooms' that a server must have, after a position, in order."""
    rows = await db.scan(
        "SELECT server, pos, event_nid FROM pdu_outbox WHERE server = ? AND pos > ?"
        " ORDER BY pos, event_nid LIMIT 1000",
        server,
        after,
    )
    return [PduOutboxRow(*row) for row in rows]


async def edus_waiting(
    db: Database, server: str, after: tuple[int, int], until: int, limit: int
) -> list[WaitingEdu]:
    """Up to `limit` EDUs for a server after (position, number), up to a position, in order."""
    rows = await db.fetch(
        "SELECT server, pos, edu_outbox.edu_nid, key, type, content FROM edu_outbox"
        " JOIN edus ON edus.edu_nid = edu_outbox.edu_nid"
        " WHERE server = ? AND pos >= ? AND pos <= ? AND (pos > ? OR edu_outbox.edu_nid > ?)"
        " ORDER BY pos, edu_outbox.edu_nid LIMIT ?",
        server,
        after[0],
        until,
        *after,
        limit,
    )
    return [WaitingEdu(EduOutboxRow(*row[:4]), *row[4:]) for row in rows]


async def count_edus(db: Database, server: str, most: int) -> int:
    """How many EDUs wait for a server, counted up to `most`."""
    rows = await db.scan("SELECT 1 FROM edu_outbox WHERE server = ? LIMIT ?", server, most)
    return len(rows)


def edu_replaced(servers: Collection[str], key: str) -> Do:
    """Drop what waits for these servers under a key."""
    return Do("DELETE FROM edu_outbox WHERE server IN (??) AND key = ?", (list(servers), key))


def pdus_delivered(server: str, until: int) -> Do:
    """Drop the events of a server's outbox up to a position."""
    return Do("DELETE FROM pdu_outbox WHERE server = ? AND pos <= ?", (server, until))


def unsent_edus_forgotten(edu_nids: Collection[int]) -> Do:
    """Drop those of these EDUs that wait for no server."""
    numbers = list(edu_nids)
    return Do(
        "DELETE FROM edus WHERE edu_nid IN (??) AND NOT EXISTS"
        " (SELECT 1 FROM edu_outbox WHERE edu_outbox.edu_nid = edus.edu_nid)",
        (numbers,),
    )


def orphaned_edus_forgotten(before: int) -> Do:
    """Drop the EDUs of numbers below `before` that wait for no server."""
    return Do(
        "DELETE FROM edus WHERE edu_nid < ? AND NOT EXISTS"
        " (SELECT 1 FROM edu_outbox WHERE edu_outbox.edu_nid = edus.edu_nid)",
        (before,),
    )
