"""Transaction ids: which ones are old enough to be forgotten."""

from storage.changes import Delete
from storage.engine import Database
from storage.events import txns_before
from storage.schema import TxnIdRow
from tests.storage.house import DEVICE, build


async def test_only_those_before_a_time_are_forgotten(database: Database) -> None:
    await build(database)
    assert await txns_before(database, 0, 10) == []
    assert await txns_before(database, 1, 0) == []
    assert await txns_before(database, 1, 10) == [Delete(TxnIdRow, (DEVICE, 77, "m1"))]
