"""The order of the published room directory, and who stands in it."""

from collections.abc import Awaitable, Callable
from typing import Any

from storage import public_rooms
from storage.changes import Insert, Item
from storage.engine import Database
from storage.schema import RoomSummaryRow

TOP = (2**53, 0)
Reading = Callable[[Database, public_rooms.Place, int], Awaitable[list[Any]]]


def summary(room_nid: int, joined: int, **given: Any) -> RoomSummaryRow:
    row = RoomSummaryRow(
        room_nid=room_nid,
        name=f"room {room_nid}",
        topic="x" * 3000,
        avatar=None,
        alias=None,
        room_type=None,
        join_rule="public",
        visibility="shared",
        encryption=None,
        guest_access="forbidden",
        joined=joined,
        invited=0,
        published=1,
    )
    return row._replace(**given)


async def write(database: Database, *rows: RoomSummaryRow) -> None:
    await database.commit([Item([Insert(row) for row in rows], 0)])


async def numbers(
    read: Reading, database: Database, place: public_rooms.Place, limit: int = 10
) -> list[int]:
    return [row.room_nid for row in await read(database, place, limit)]


async def test_big_rooms_come_first_and_new_ones_before_old_ones(database: Database) -> None:
    await write(database, summary(1, 5), summary(2, 9), summary(3, 5), summary(4, 1))
    for after in (public_rooms.listed_after, public_rooms.searched_after):
        assert await numbers(after, database, TOP) == [2, 3, 1, 4]
        assert await numbers(after, database, TOP, 2) == [2, 3]
        assert await numbers(after, database, (5, 3)) == [1, 4]
        assert await numbers(after, database, (5, 2)) == [1, 4]
    for before in (public_rooms.listed_before, public_rooms.searched_before):
        assert await numbers(before, database, (1, 4)) == [1, 3, 2]
        assert await numbers(before, database, (5, 1), 1) == [3]
        assert await numbers(before, database, (9, 2)) == []


async def test_what_no_stranger_may_enter_or_read_is_not_listed(database: Database) -> None:
    await write(
        database,
        summary(1, 1, published=0),
        summary(2, 0),
        summary(3, 1, join_rule="invite"),
        summary(4, 1, join_rule="invite", visibility="world_readable"),
        summary(5, 1, join_rule="knock"),
        summary(6, 1, join_rule="private"),
    )
    assert await numbers(public_rooms.listed_after, database, TOP) == [5, 4]
    assert await public_rooms.listed_count(database, 10) == 2
    assert await public_rooms.listed_count(database, 1) == 1


async def test_a_search_reads_the_beginning_of_long_texts(database: Database) -> None:
    await write(database, summary(1, 1, name=None, alias="#a:here", room_type="m.space"))
    (row,) = await public_rooms.searched_after(database, TOP, 10)
    assert row == (1, 1, "m.space", None, "x" * 1000, "#a:here")
