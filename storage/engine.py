"""What a database can do for the rest of the server, whichever of the two it is.

`Database` is the one way in: bounded reads, long reads, the batch commit, numbers and names. A read
that begins after `commit` has returned sees what it wrote. No method leaves a transaction open. The
dialects are in `sqlite` and `postgresql`; statements that differ stand there.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

from storage.changes import Item
from storage.schema import Dialect, TimelineRow

TIMELINES_KEPT = 1_000


class StorageError(Exception):
    """The database can't be used; the message is a sentence for the operator."""


class DatabaseInUse(StorageError):
    """Another process has this database open."""


class DatabaseTooNew(StorageError):
    """A newer version of this program wrote this database."""


@dataclass(frozen=True)
class DatabaseSettings:
    """Where the data is: `path` of an SQLite file, or `dsn` of a PostgreSQL database.

    `key_file` holds the 32-byte key (64 hexadecimal digits) of an encrypted SQLite file. `durable`
    off gives up safety against power cuts, never against crashes of the process: tests want it.
    """

    path: Path | None = None
    dsn: str | None = None
    key_file: Path | None = None
    durable: bool = True


class Database(ABC):
    """An open, migrated database.

    SQL texts are literals with `?` for a value and `IN (??)` for "one of this collection" (numbers
    or texts). Rows come back as plain tuples.
    """

    dialect: Dialect
    timed: Callable[[float], None] = staticmethod(lambda _seconds: None)
    """Called by every read, in the context of its caller, with the seconds that it took."""

    @abstractmethod
    async def fetch(self, sql: LiteralString, *args: Any) -> list[tuple[Any, ...]]:
        """A bounded read: by primary key, or up to about a hundred rows through an index.

        On SQLite it runs at once on the loop thread. Raises `Malformed` for text with a NUL.
        """

    @abstractmethod
    async def scan(self, sql: LiteralString, *args: Any) -> list[tuple[Any, ...]]:
        """A read of any length, off the loop."""

    @abstractmethod
    async def commit(self, items: Sequence[Item]) -> list[int]:
        """Write all items in one durable transaction; the first absolute position of each item.

        Positions follow each other without gaps in the order of the items; for an item of no
        positions the answer is where the next one begins. Raises `CommitFailed` or one of its
        kinds, and then nothing was written (`DatabaseGone`: not known). Calls run one at a time in
        the order in which they were made; a cancelled caller does not undo its batch.
        """

    @abstractmethod
    async def reserve(self, counter: str, count: int) -> int:
        """The first of `count` numbers, from 1 up, that were and will be given to nobody else."""

    @abstractmethod
    async def intern(self, names: Collection[str]) -> dict[str, int]:
        """The number of every name; new names get one."""

    @abstractmethod
    async def intern_keys(self, keys: Collection[tuple[int, int]]) -> dict[tuple[int, int], int]:
        """The number of every (type_nid, name_nid); new ones get one."""

    @abstractmethod
    async def start_timeline(self) -> list[TimelineRow]:
        """Take the database over for this process and begin a new timeline at its last position.

        Whoever wrote before is refused with `Fenced` from now on. The last 1,000 timelines, oldest
        first; the new one is the last.
        """

    @abstractmethod
    async def close(self) -> None:
        """Finish what was begun and let go of the database."""

    async def position(self) -> int:
        """The last committed position of the stream."""
        return int((await self.fetch("SELECT pos FROM stream WHERE one = 1"))[0][0])


async def open_database(settings: DatabaseSettings) -> Database:
    """Open the database of the settings, made or migrated when need be.

    Raises `StorageError`: `DatabaseInUse`, `DatabaseTooNew`, or another with a reason.
    """
    if settings.dsn is not None:
        from storage.postgresql import PostgresDatabase

        return await PostgresDatabase.open(settings.dsn, durable=settings.durable)
    if settings.path is None:
        raise StorageError("Neither the path nor the dsn of a database is given")
    from storage.sqlite import SQLiteDatabase

    return await SQLiteDatabase.open(
        settings.path, key_file=settings.key_file, durable=settings.durable
    )


_PLACEHOLDER = re.compile(r"IN \(\?\?\)|\?")


def placeholders(sql: str) -> list[str]:
    """The text cut at its placeholders: texts at even places, `?` or `IN (??)` at odd ones."""
    parts: list[str] = []
    end = 0
    for match in _PLACEHOLDER.finditer(sql):
        parts += (sql[end : match.start()], match.group())
        end = match.end()
    parts.append(sql[end:])
    return parts
