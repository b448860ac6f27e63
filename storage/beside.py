"""Reading a database beside the server that has it open.

`read_beside` gives what `size` needs: long reads, each a snapshot of its own. It takes no lock,
makes no table, migrates nothing and enters no worker; a server that runs does not notice it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, LiteralString, Protocol

import apsw

from storage.engine import DatabaseInUse, DatabaseSettings, StorageError
from storage.schema import Dialect
from storage.sqlite_file import open_file
from storage.sqlite_writer import bound, translated


class Reader(Protocol):
    """What can be read from; a `Database` is one too."""

    dialect: Dialect

    async def scan(self, sql: LiteralString, *args: Any) -> list[tuple[Any, ...]]:
        """A read of any length, off the loop."""


class _SQLiteReader:
    dialect: Dialect = "sqlite"

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    async def scan(self, sql: LiteralString, *args: Any) -> list[tuple[Any, ...]]:
        def read() -> list[tuple[Any, ...]]:
            return self._connection.execute(translated(sql), bound(args)).fetchall()

        return await asyncio.to_thread(read)


@contextlib.asynccontextmanager
async def read_beside(settings: DatabaseSettings) -> AsyncIterator[Reader]:
    """Open the existing database of the settings for reading; raises `StorageError`."""
    if settings.dsn is not None:
        async with _postgres(settings.dsn) as reader:
            yield reader
        return
    if settings.path is None:
        raise StorageError("Neither the path nor the dsn of a database is given")
    connection = open_file(settings.path, settings.key_file, existing=True)
    try:
        connection.wal_autocheckpoint(0)
        connection.pragma("query_only", True)
        yield _SQLiteReader(connection)
    except apsw.Error as error:
        raise StorageError(f"{settings.path} can't be read: {error}") from error
    finally:
        connection.close()


@contextlib.asynccontextmanager
async def _postgres(dsn: str) -> AsyncIterator[Reader]:
    from storage.changes import CommitFailed
    from storage.postgres_statements import statement
    from storage.postgres_wire import Refused
    from storage.postgresql import Line

    line = Line(dsn, {"connect_timeout": 5, "fallback_application_name": "homeserver, reading"})

    class PostgresReader:
        dialect: Dialect = "postgresql"

        async def scan(self, sql: LiteralString, *args: Any) -> list[tuple[Any, ...]]:
            return (await line.run(statement(sql, args)))[0]

    try:
        yield PostgresReader()
    except (CommitFailed, Refused) as error:
        raise StorageError(f"PostgreSQL can't be used: {error}") from error
    finally:
        await line.close()


def log_bytes(path: Path) -> int:
    """The size of the write-ahead log beside an SQLite file, 0 where there is none."""
    log = path.with_name(path.name + "-wal")
    with contextlib.suppress(FileNotFoundError):
        return log.stat().st_size
    return 0


_OTHERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name LIKE 'homeserver %' AND pid <> pg_backend_pid()"
)


async def refuse_if_used(settings: DatabaseSettings) -> None:
    """Raise `DatabaseInUse` when a server, on whatever machine, has this PostgreSQL database open.

    An SQLite file guards itself.
    """
    if settings.dsn is None:
        return
    async with _postgres(settings.dsn) as reader:
        ((others,),) = await reader.scan(_OTHERS)
    if others:
        raise DatabaseInUse(
            "A server that can't be reached from here has the database open: run this on its"
            " machine, or stop it first"
        )
