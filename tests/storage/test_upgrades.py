"""A database of an older version ends as a new one. `versions/N_DIALECT.sql` is its DDL."""

from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest

from storage.engine import Database, DatabaseSettings, open_database
from storage.migrations import VERSION
from storage.to_device import waiting
from tests.databases import PostgresServer

VERSIONS = Path(__file__).with_name("versions")
_START = """
INSERT INTO stream (one, pos, view) VALUES (1, 0, 1);
INSERT INTO views (view, members) VALUES (1, '[]');
INSERT INTO meta (key, value) VALUES ('schema_version', '{version}');
"""
_SQLITE = "SELECT m.name, c.name, c.type, c.pk FROM sqlite_schema m, pragma_table_info(m.name) c"
_SQLITE_INDEXES = "SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = 'index'"
_POSTGRES = (
    "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns"
    " WHERE table_schema = 'public'"
)
_POSTGRES_INDEXES = (
    "SELECT indexname, tablename, indexdef FROM pg_indexes WHERE schemaname='public'"
)


async def tables(database: Database) -> list[Any]:
    if database.dialect == "sqlite":
        asked = await database.scan(_SQLITE) + await database.scan(_SQLITE_INDEXES)
    else:
        asked = await database.scan(_POSTGRES) + await database.scan(_POSTGRES_INDEXES)
    return sorted(asked, key=repr)


@pytest.mark.parametrize("version", range(1, VERSION))
async def test_an_older_sqlite_database_becomes_a_new_one(version: int, tmp_path: Path) -> None:
    old = apsw.Connection(str(tmp_path / "old.db"))
    old.execute((VERSIONS / f"{version}_sqlite.sql").read_text())
    old.execute(_START.format(version=version))
    old.close()
    found = []
    for name in ("old", "new"):
        database = await open_database(DatabaseSettings(path=tmp_path / f"{name}.db"))
        found.append(await tables(database))
        await database.close()
    assert found[0] == found[1]


async def test_messages_that_wait_for_devices_are_there_after_an_upgrade(tmp_path: Path) -> None:
    old = apsw.Connection(str(tmp_path / "old.db"))
    old.execute((VERSIONS / "3_sqlite.sql").read_text())
    old.execute(_START.format(version=3))
    rows = [(device_nid, pos, b"%d" % pos) for device_nid in (2, 1) for pos in (7, 5, 6)]
    old.executemany("INSERT INTO to_device (device_nid, pos, json) VALUES (?, ?, ?)", rows)
    old.close()
    database = await open_database(DatabaseSettings(path=tmp_path / "old.db"))
    for device_nid in (1, 2):
        found = await waiting(database, device_nid, 0, 6, 10)
        assert found == [(5, b"5"), (6, b"6")]
    await database.close()


@pytest.mark.parametrize("version", range(1, VERSION))
async def test_an_older_postgresql_database_becomes_a_new_one(
    version: int, postgres: PostgresServer
) -> None:
    names = [postgres.blank_database(), postgres.blank_database()]
    with psycopg.connect(names[0]) as connection:
        connection.execute((VERSIONS / f"{version}_postgresql.sql").read_text().encode())
        connection.execute(_START.format(version=version).encode())
    found = []
    for dsn in names:
        database = await open_database(DatabaseSettings(dsn=dsn, durable=False))
        found.append(await tables(database))
        await database.close()
        postgres.drop(dsn)
    assert found[0] == found[1]
