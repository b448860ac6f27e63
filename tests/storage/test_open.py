"""Opening: one process to an SQLite file, keys, versions of the schema, timelines."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from storage import migrations
from storage.changes import Fenced, Insert, Item, Pos, Put
from storage.engine import (
    DatabaseInUse,
    DatabaseSettings,
    DatabaseTooNew,
    StorageError,
    open_database,
)
from storage.migrations import VERSION
from storage.schema import Dialect, MetaRow, create_statements
from tests.databases import PostgresServer
from tests.storage.rows import event


async def test_a_database_from_the_future_is_refused(database_settings: DatabaseSettings) -> None:
    database = await open_database(database_settings)
    await database.commit([Item([Put(MetaRow("schema_version", str(VERSION + 1)))])])
    await database.close()
    with pytest.raises(DatabaseTooNew, match="newer version"):
        await open_database(database_settings)


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    database = await open_database(DatabaseSettings(path=tmp_path / "test.db"))
    opening = (
        "import asyncio, sys; from pathlib import Path; from storage.engine import *\n"
        "settings = DatabaseSettings(path=Path(sys.argv[1]))\n"
        "try: asyncio.run(open_database(settings))\n"
        "except DatabaseInUse as error: print(error)"
    )
    command = [sys.executable, "-c", opening, str(tmp_path / "test.db")]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert "is open in another process" in done.stdout, done.stderr
    with pytest.raises(DatabaseInUse):
        await open_database(DatabaseSettings(path=tmp_path / "test.db"))
    await database.close()
    await (await open_database(DatabaseSettings(path=tmp_path / "test.db"))).close()


async def test_an_encrypted_file_needs_its_key(tmp_path: Path) -> None:
    right, wrong, bad = (tmp_path / name for name in ("right", "wrong", "bad"))
    right.write_text("0123456789abcdef" * 4 + "\n")
    wrong.write_text("f" * 64)
    bad.write_text("secret")
    path = tmp_path / "test.db"
    database = await open_database(DatabaseSettings(path=path, key_file=right))
    await database.commit([Item([Put(MetaRow("greeting", "plainly readable"))])])
    await database.close()
    assert b"plainly readable" not in path.read_bytes()
    for key_file, reason in (
        (wrong, "does not fit"),
        (None, "key_file"),
        (bad, "64 hexadecimal digits"),
        (tmp_path / "absent", "can't be read"),
    ):
        with pytest.raises(StorageError, match=reason):
            await open_database(DatabaseSettings(path=path, key_file=key_file))
    database = await open_database(DatabaseSettings(path=path, key_file=right))
    assert await database.fetch("SELECT value FROM meta WHERE key = ?", "greeting")
    await database.close()


async def test_a_place_that_cannot_be_used_is_an_error_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        await open_database(DatabaseSettings(path=tmp_path / "absent" / "test.db"))
    with pytest.raises(StorageError, match="PostgreSQL can't be used"):
        await open_database(DatabaseSettings(dsn=f"host={tmp_path} connect_timeout=1"))
    with pytest.raises(StorageError, match="Neither"):
        await open_database(DatabaseSettings())


async def test_servers_that_start_at_once_migrate_once(postgres: PostgresServer) -> None:
    dsn = postgres.blank_database()
    opened = await asyncio.gather(
        *(open_database(DatabaseSettings(dsn=dsn, durable=False)) for _ in range(4))
    )
    for n, database in enumerate(opened):
        assert await database.commit([Item([Insert(event(n, pos=Pos(0)))], 1)]) == [n + 1]
    for database in opened:
        await database.close()
    postgres.drop(dsn)


async def test_the_server_that_starts_last_has_the_database(postgres: PostgresServer) -> None:
    dsn = postgres.new_database()
    first, second = [
        await open_database(DatabaseSettings(dsn=dsn, durable=False)) for _ in range(2)
    ]
    await first.start_timeline()
    await first.commit([Item([Insert(event(1, pos=Pos(0)))], 1)])
    timelines = await second.start_timeline()
    assert [row.from_pos for row in timelines] == [0, 1]
    with pytest.raises(Fenced):
        await first.commit([Item([Insert(event(2, pos=Pos(0)))], 1)])
    assert await second.commit([Item([Insert(event(2, pos=Pos(0)))], 1)]) == [2]
    await first.close()
    await second.close()
    postgres.drop(dsn)


async def test_an_interrupted_migration_leaves_nothing(
    database_settings: DatabaseSettings,
    postgres: PostgresServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blank = (
        DatabaseSettings(path=tmp_path / "blank.db", durable=False)
        if database_settings.path
        else DatabaseSettings(dsn=postgres.blank_database(), durable=False)
    )

    def broken(dialect: Dialect) -> list[str]:
        return [*create_statements(dialect), "CREATE TABLE events (again BIGINT)"]

    monkeypatch.setattr("storage.migrations.create_statements", broken)
    with pytest.raises(StorageError, match="events"):
        await open_database(blank)
    monkeypatch.undo()
    database = await open_database(blank)
    assert await database.commit([Item([Insert(event(1, pos=Pos(0)))], 1)]) == [1]
    await database.close()


async def test_every_step_of_the_schema_has_its_number() -> None:
    assert sorted(migrations.STEPS) == list(range(2, VERSION + 1))
