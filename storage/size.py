"""Where the bytes of the database are: by kind of data, by table, and by room.

`sizes` explains the whole size. What a table and each of its indexes take is exact (the pages that
they hold); how a table's bytes divide among rooms follows from the number and the length of the
rooms' rows, lengths of JSON from a sample where there is much of it. Every sum is exact: the parts
of the answer add up to its total. It reads whole tables, and writes nothing.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, LiteralString

from storage.beside import Reader
from storage.schema import TABLES

FREE: Final = "free pages"
LOG: Final = "write-ahead log"
SYSTEM: Final = "the database's own"
INDEXES: Final = "indexes"
NO_ROOM: Final = 0
"""The room_nid of what belongs to no room."""

_KINDS: Final[Mapping[str, str]] = {
    "events": "events",
    "event_json": "events",
    "event_children": "events",
    "missing_prevs": "events",
    "redactions": "events",
    "mass_redactions": "events",
    "txn_ids": "transaction ids",
    "snapshots": "snapshots",
    "current_state": "state",
    "state_changes": "state",
    "state_resets": "state",
    "state_keys": "names",
    "names": "names",
    "memberships": "memberships",
    "membership_log": "memberships",
    "receipts": "receipts",
    "account_data": "account data",
    "rooms": "rooms",
    "room_heads": "rooms",
    "room_summary": "rooms",
    "aliases": "rooms",
    "users": "accounts",
    "profiles": "accounts",
    "presence": "accounts",
    "devices": "accounts",
    "access_tokens": "accounts",
    "device_lists": "device keys",
    "device_keys": "device keys",
    "remote_devices": "device keys",
    "one_time_keys": "device keys",
    "fallback_keys": "device keys",
    "signing_keys": "device keys",
    "key_signatures": "device keys",
    "to_device": "to-device messages",
    "parcels": "to-device messages",
    "message_ids": "to-device messages",
    "dehydrated_devices": "device keys",
    "backups": "key backups",
    "backup_keys": "key backups",
}
_OF_EVENTS: Final = ("event_json", "event_children", "txn_ids")
"""Tables whose rows belong to an event and carry no room."""

_SAMPLE: Final = 100_000
_AT_ONCE: Final = 500

_SQLITE_PAGES: Final = (
    "SELECT sqlite_schema.tbl_name, sqlite_schema.type = 'index', sum(pgsize) FROM dbstat"
    " JOIN sqlite_schema ON sqlite_schema.name = dbstat.name WHERE aggregate = TRUE GROUP BY 1, 2"
)
_SQLITE_FILE: Final = (
    "SELECT page_count * page_size, freelist_count * page_size"
    " FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
)
_POSTGRES_TABLES: Final = (
    "SELECT relname::text, false, pg_table_size(oid) FROM pg_class WHERE relkind = 'r'"
    " AND relnamespace = current_schema()::regnamespace"
    " UNION ALL SELECT tables.relname::text, true, sum(pg_table_size(indexrelid))::bigint"
    " FROM pg_index JOIN pg_class AS tables ON tables.oid = indrelid"
    " WHERE tables.relnamespace = current_schema()::regnamespace AND tables.relkind = 'r'"
    " GROUP BY 1"
)
_POSTGRES_DATABASE: Final = "SELECT pg_database_size(current_database()), 0"
_EVENTS_BY_ROOM: Final = (
    "SELECT room_nid, count(*) FROM events WHERE pos IS NOT NULL GROUP BY room_nid"
)
_LAST_EVENT: Final = "SELECT coalesce(max(event_nid), 0) FROM events"
_LENGTHS: Final = (
    "SELECT room_nid, count(*), sum(length(json)) FROM event_json"
    " JOIN events ON events.event_nid = event_json.event_nid"
    " WHERE event_json.event_nid IN (??) GROUP BY room_nid"
)
_SNAPSHOTS_BY_ROOM: Final = (
    "SELECT room_nid, 30 * count(*) + sum(length(entries)) FROM snapshots GROUP BY room_nid"
)
_ROOM_IDS: Final = (
    "SELECT rooms.room_nid, room_id, name FROM rooms"
    " LEFT JOIN room_summary ON room_summary.room_nid = rooms.room_nid"
    " WHERE rooms.room_nid IN (??)"
)


@dataclass(frozen=True)
class TableSize:
    """Bytes of one table: its own, and those of its indexes."""

    table: str
    kind: str
    own: int
    indexes: int


@dataclass(frozen=True)
class RoomSize:
    """Bytes of one room by kind; its id and name are None where it has no row."""

    room_nid: int
    room_id: str | None
    name: str | None
    kinds: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.kinds.values())


@dataclass(frozen=True)
class Sizes:
    """The whole database. `kinds` sums up to `total`; so do `rooms`, `elsewhere` together.

    `rooms` are the largest rooms, in that order; `elsewhere` is, by kind, what belongs to no room
    or to a room that is not among them.
    """

    total: int
    kinds: Mapping[str, int]
    tables: list[TableSize]
    rooms: list[RoomSize]
    elsewhere: Mapping[str, int]


async def sizes(db: Reader, *, log_bytes: int = 0, most_rooms: int = 20) -> Sizes:
    """Explain the size of the database; `log_bytes` is the size of files beside it."""
    tables, total, free = await _tables(db)
    weights = await _weights(db)
    kinds: Counter[str] = Counter()
    rooms: dict[int, Counter[str]] = {}
    for one in tables:
        for kind, number in ((one.kind, one.own), (INDEXES, one.indexes)):
            kinds[kind] += number
            for room_nid, share in _divided(number, weights.get(one.table, {})).items():
                rooms.setdefault(room_nid, Counter())[kind] += share
    kinds[FREE] += free
    kinds[LOG] += log_bytes
    kinds[SYSTEM] += total - sum(one.own + one.indexes for one in tables) - free
    total += log_bytes
    rooms.pop(NO_ROOM, None)
    largest = sorted(rooms, key=lambda nid: (-rooms[nid].total(), nid))[:most_rooms]
    ids = {nid: (room_id, name) for nid, room_id, name in await db.scan(_ROOM_IDS, largest)}
    elsewhere = Counter(kinds)
    for nid in largest:
        elsewhere.subtract(rooms[nid])
    return Sizes(
        total=total,
        kinds={kind: number for kind, number in kinds.most_common() if number},
        tables=sorted(tables, key=lambda one: -(one.own + one.indexes)),
        rooms=[
            RoomSize(nid, room_id, name, dict(rooms[nid].most_common()))
            for nid in largest
            for room_id, name in (ids.get(nid, (None, None)),)
        ],
        elsewhere={kind: number for kind, number in elsewhere.most_common() if number},
    )


async def _tables(db: Reader) -> tuple[list[TableSize], int, int]:
    """The tables, the size of the database, and how much of it is free pages."""
    if db.dialect == "sqlite":
        rows = await db.scan(_SQLITE_PAGES)
        ((total, free),) = await db.scan(_SQLITE_FILE)
    else:
        rows = await db.scan(_POSTGRES_TABLES)
        ((total, free),) = await db.scan(_POSTGRES_DATABASE)
    own: Counter[str] = Counter()
    indexes: Counter[str] = Counter()
    for table, is_index, number in rows:
        (indexes if is_index else own)[table] += int(number)
    names = {declared.name for declared in TABLES.values()}
    found = [
        TableSize(name, _KINDS.get(name, "other"), own[name], indexes[name])
        for name in sorted(own.keys() & names)
    ]
    return found, int(total), int(free)


async def _weights(db: Reader) -> dict[str, Mapping[int, int]]:
    """By table, the weight of each room in it; a table that is missing belongs to no room."""
    events = await _by_room(db, _EVENTS_BY_ROOM)
    weights: dict[str, Mapping[int, int]] = dict.fromkeys(("events", *_OF_EVENTS), events)
    weights["event_json"] = await _json_by_room(db, events)
    weights["snapshots"] = await _by_room(db, _SNAPSHOTS_BY_ROOM)
    for declared in TABLES.values():
        if declared.name not in weights and "room_nid" in declared.column_names:
            # The name is one of our own declarations.
            text = f"SELECT room_nid, count(*) FROM {declared.name} GROUP BY room_nid"
            weights[declared.name] = await _by_room(db, text)
    return weights


async def _by_room(db: Reader, sql: LiteralString) -> dict[int, int]:
    return {room_nid: int(weight) for room_nid, weight in await db.scan(sql)}


async def _json_by_room(db: Reader, events: Mapping[int, int]) -> dict[int, int]:
    """Bytes of JSON by room: the mean length of a sample times the number of events."""
    ((last,),) = await db.scan(_LAST_EVENT)
    sample = range(1, last + 1, max(1, last // _SAMPLE))
    seen: Counter[int] = Counter()
    length: Counter[int] = Counter()
    for start in range(0, len(sample), _AT_ONCE):
        part = list(sample[start : start + _AT_ONCE])
        for room_nid, count, total in await db.scan(_LENGTHS, part):
            seen[room_nid] += int(count)
            length[room_nid] += int(total)
    mean = max(1, length.total() // max(1, seen.total()))
    return {
        room_nid: count * length[room_nid] // seen[room_nid] if seen[room_nid] else count * mean
        for room_nid, count in events.items()
    }


def _divided(number: int, weights: Mapping[int, int]) -> dict[int, int]:
    """The number divided by weight into whole parts that add up to it."""
    total = sum(weights.values())
    if not total:
        return {NO_ROOM: number}
    parts = {room_nid: number * weight // total for room_nid, weight in weights.items()}
    parts[max(weights, key=lambda nid: weights[nid])] += number - sum(parts.values())
    return parts
