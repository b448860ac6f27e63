"""PostgreSQL out of reach: nothing is written twice, and what is not known is said to be so."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage import postgresql
from storage.changes import DatabaseGone, Do, Insert, Item, Pos
from storage.engine import Database, DatabaseSettings, open_database
from storage.schema import EventJsonRow
from tests.databases import PostgresServer
from tests.storage.proxy import Proxy
from tests.storage.rows import event


@pytest.fixture
async def proxy(postgres: PostgresServer) -> AsyncIterator[Proxy]:
    with tempfile.TemporaryDirectory(prefix="hs-") as folder:
        made = Proxy(Path(folder), postgres.folder)
        await made.start()
        yield made
        await made.stop()


@pytest.fixture
async def database(postgres: PostgresServer, proxy: Proxy) -> AsyncIterator[Database]:
    dsn = postgres.new_database()
    through = dsn.replace(str(postgres.folder), str(proxy.folder))
    opened = await open_database(DatabaseSettings(dsn=through, durable=False))
    yield opened
    await opened.close()
    postgres.drop(dsn)


def item(nid: int) -> Item:
    return Item([Insert(event(nid, pos=Pos(0))), Insert(EventJsonRow(nid, b"{}"))], 1)


@pytest.mark.parametrize("lose", ["request", "answer"])
async def test_a_batch_whose_answer_is_lost_is_written_once(
    database: Database, proxy: Proxy, lose: str
) -> None:
    for nid in range(1, 9):
        proxy.lose = lose if nid % 2 else ""
        assert await database.commit([item(nid)]) == [nid]
    assert proxy.lost == 4
    assert await database.position() == 8
    rows = await database.scan("SELECT event_nid, pos FROM events ORDER BY pos")
    assert rows == [(nid, nid) for nid in range(1, 9)]


async def test_a_lost_batch_keeps_its_positions_when_others_write(
    database: Database, proxy: Proxy, postgres: PostgresServer
) -> None:
    await database.commit([item(1)])
    proxy.lose = "answer"
    assert await database.commit([item(2), item(3)]) == [2, 3]
    counted = Do("UPDATE stream SET pos = pos + 10 WHERE one = 1", ())
    await database.commit([Item([counted])])
    assert await database.commit([item(4)]) == [14]


async def test_reads_outlive_a_lost_connection(database: Database, proxy: Proxy) -> None:
    await database.commit([item(1)])
    for _ in range(3):
        proxy.cut()
        assert await database.position() == 1
        assert await database.scan("SELECT event_nid FROM events") == [(1,)]
        assert await database.reserve("event", 1)
        assert await database.intern(["a"]) == await database.intern(["a"])


async def test_a_database_that_stays_away_is_gone(
    database: Database, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "_PATIENCE", 0.01)
    await database.commit([item(1)])
    proxy.down = True
    proxy.cut()
    with pytest.raises(DatabaseGone):
        await database.commit([item(2)])
    with pytest.raises(DatabaseGone):
        await database.position()
    proxy.down = False
    assert await database.commit([item(3)]) == [2]
    assert await database.scan("SELECT event_nid FROM events ORDER BY event_nid") == [(1,), (3,)]
    assert await database.commit([item(4)]) == [3]
