"""Losses by state resolution: the newest are kept."""

from storage.changes import Insert, Item, Pos
from storage.engine import Database
from storage.resets import MAX_KEPT, forget_older, resets_of
from storage.schema import StateResetRow


async def test_of_each_room_the_last_thousand_are_kept(database: Database) -> None:
    def lost(room: int, number: int) -> StateResetRow:
        return StateResetRow(room, Pos(number), "power", "@u:x", 1, 2, None, "50", "0", number)

    rooms = ((1, MAX_KEPT + 20), (2, 3))
    for room, count in rooms:
        rows = [Insert(lost(room, number)) for number in range(count)]
        await database.commit([Item([*rows, forget_older(room)], positions=count)])
    for room, count in rooms:
        kept = await resets_of(database, room, 2 * MAX_KEPT)
        assert [row.ts for row in kept] == list(range(count))[::-1][:MAX_KEPT]
