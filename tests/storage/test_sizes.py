"""Every byte is explained: by kind, by table and by room, and the parts add up."""

from storage.changes import Change, Delete, Insert, Item, Pos
from storage.engine import Database
from storage.schema import EventJsonRow, RoomRow
from storage.size import FREE, INDEXES, sizes
from tests.storage.house import ROOM, build
from tests.storage.rows import event

TALK = 300


async def test_the_parts_add_up_and_rooms_have_their_share(database: Database) -> None:
    await build(database)
    changes: list[Change] = [Insert(RoomRow(2, "!busy:here", "12", 0, 0))]
    for nid in range(100, 100 + TALK):
        row = event(nid, 2, pos=Pos(nid - 100))
        changes += [Insert(row), Insert(EventJsonRow(nid, b'{"a":"' + b"x" * 700 + b'"}'))]
    await database.commit([Item(changes, TALK)])
    found = await sizes(database)
    assert sum(found.kinds.values()) == found.total
    rooms = sum(room.total for room in found.rooms)
    assert rooms + sum(found.elsewhere.values()) == found.total
    busy, house = found.rooms
    assert (busy.room_id, house.room_id, house.name) == ("!busy:here", "!house:here", "House")
    assert busy.kinds["events"] > TALK * 700
    assert house.kinds["memberships"] > 0
    assert "memberships" not in busy.kinds
    assert found.kinds[INDEXES] > 0
    assert {one.table for one in found.tables} >= {"events", "event_json", "names", "snapshots"}
    (only,) = (await sizes(database, most_rooms=1)).rooms
    assert only.room_nid == 2 != ROOM


async def test_what_is_free_and_what_stands_beside_count_too(database: Database) -> None:
    rows = [Insert(EventJsonRow(nid, b"{" + b"x" * 2_000)) for nid in range(1, 200)]
    await database.commit([Item(rows)])
    before = await sizes(database)
    beside = await sizes(database, log_bytes=1_000)
    assert beside.total == before.total + 1_000
    assert beside.kinds["write-ahead log"] == 1_000
    if database.dialect == "sqlite":
        await database.commit([Item([Delete(EventJsonRow, (nid,)) for nid in range(1, 200)])])
        after = await sizes(database)
        assert after.total == before.total
        assert after.kinds[FREE] > 300_000
