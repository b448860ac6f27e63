"""The embedded database: one file, one writing thread, reads where they are asked for.

`fetch` runs inline on a connection of the loop thread, which is why it must stay bounded; `scan`
goes to a few reader threads. Neither leaves a read transaction open. See `sqlite_file` for locking,
keys and settings and `sqlite_writer` for the commit.
"""

import asyncio
import contextlib
import json
import secrets
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import Any, LiteralString, TypeVar

import apsw

from storage.changes import CommitFailed, DatabaseGone, Item, Malformed, check_text, check_texts
from storage.engine import TIMELINES_KEPT, Database, StorageError
from storage.migrations import statements_from, version_table
from storage.schema import TimelineRow
from storage.sqlite_file import DatabaseFile
from storage.sqlite_writer import Batches, Writer, carray, transaction, translated

Key = TypeVar("Key", str, tuple[int, int])

_CACHE_KIB = 12_000
_SCAN_CACHE_KIB = 4_000
_SCAN_THREADS = 2


class SQLiteDatabase(Database):
    """An SQLite file that this process has for itself."""

    dialect = "sqlite"

    def __init__(
        self,
        file: DatabaseFile,
        reader: apsw.Connection,
        scanners: Sequence[apsw.Connection],
        writer: Writer,
        batches: Batches,
    ) -> None:
        self._file = file
        self._reader = reader
        self._writer = writer
        self._batches = batches
        self._scanners: SimpleQueue[apsw.Connection] = SimpleQueue()
        for scanner in scanners:
            self._scanners.put(scanner)
        self._scan_threads = ThreadPoolExecutor(len(scanners), thread_name_prefix="storage-scan")

    @classmethod
    async def open(
        cls, path: Path, *, key_file: Path | None = None, durable: bool = True
    ) -> "SQLiteDatabase":
        """Open or make the file; raises `StorageError`."""
        file = DatabaseFile(path, key_file=key_file, durable=durable)
        try:
            writing = file.connect(cache_kib=_CACHE_KIB, read_only=False)
            batches = _prepare(writing)
            checkpointing = file.connect(cache_kib=100, read_only=False)
            reader = file.connect(cache_kib=_CACHE_KIB)
            scanners = [file.connect(cache_kib=_SCAN_CACHE_KIB) for _ in range(_SCAN_THREADS)]
        except BaseException:
            file.release()
            raise
        return cls(file, reader, scanners, Writer(writing, checkpointing), batches)

    async def fetch(self, sql: LiteralString, *args: Any) -> list[tuple[Any, ...]]:
        began = perf_counter()
        rows = _read(self._reader, sql, args)
        self.timed(perf_counter() - began)
        return rows

    async def scan(self, sql: LiteralString, *args: Any) -> list[tuple[Any, ...]]:
        loop = asyncio.get_running_loop()
        began = perf_counter()
        rows = await loop.run_in_executor(self._scan_threads, self._scan, sql, args)
        self.timed(perf_counter() - began)
        return rows

    def _scan(self, sql: LiteralString, args: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        connection = self._scanners.get()
        try:
            return _read(connection, sql, args)
        finally:
            self._scanners.put(connection)

    async def commit(self, items: Sequence[Item]) -> list[int]:
        return await self._writer.run(lambda connection: self._batches.commit(connection, items))

    async def reserve(self, counter: str, count: int) -> int:
        def job(connection: apsw.Connection) -> int:
            with transaction(connection):
                return _take_numbers(connection, counter, count)

        return await self._writer.run(job)

    async def intern(self, names: Collection[str]) -> dict[str, int]:
        wanted = tuple(names)
        known: dict[str, int] = dict(_read(self._reader, _NAMES, (wanted,)))
        if len(known) < len(wanted):
            missing = sorted({name for name in wanted if name not in known})
            known |= await self._writer.run(lambda c: _intern(c, "name", missing, _name_row))
        return known

    async def intern_keys(self, keys: Collection[tuple[int, int]]) -> dict[tuple[int, int], int]:
        known: dict[tuple[int, int], int] = {}
        for key in keys:
            for (nid,) in _read(self._reader, _KEY, key):
                known[key] = nid
        missing = sorted(set(keys) - known.keys())
        if missing:
            known |= await self._writer.run(lambda c: _intern(c, "key", missing, _key_row))
        return known

    async def start_timeline(self) -> list[TimelineRow]:
        return await self._writer.run(lambda connection: _start(connection, self._batches))

    async def close(self) -> None:
        self._writer.run(lambda connection: _leave(connection, self._batches))
        await self._writer.close()
        self._scan_threads.shutdown()
        while not self._scanners.empty():
            self._scanners.get().close()
        self._reader.close()
        self._file.release()


def _read(
    connection: apsw.Connection, sql: LiteralString, args: Sequence[Any]
) -> list[tuple[Any, ...]]:
    bindings = list(args)
    for i, arg in enumerate(args):
        if isinstance(arg, str):
            check_text(arg)
        elif isinstance(arg, Collection) and not isinstance(arg, bytes):
            check_texts(arg)
            bindings[i] = carray(arg)
    try:
        return connection.execute(translated(sql), bindings).fetchall()
    except OverflowError as error:
        raise Malformed("a number needs more than 64 bits") from error
    except (apsw.IOError, apsw.FullError, apsw.ConnectionClosedError) as error:
        raise DatabaseGone(str(error)) from error


# --- Jobs of the writing thread ------------------------------------------------------------------

_NAMES = "SELECT name, name_nid FROM names WHERE name IN (??)"
_NAME = "SELECT name_nid FROM names WHERE name = ?"
_KEY = "SELECT key_nid FROM state_keys WHERE type_nid = ? AND name_nid = ?"
_TAKE_NUMBERS = (
    "INSERT INTO numbers (counter, next) VALUES (?1, 1 + ?2)"
    " ON CONFLICT (counter) DO UPDATE SET next = numbers.next + ?2 RETURNING next - ?2"
)
_VERSION = "SELECT coalesce(max(CAST(value AS INTEGER)), 0) FROM meta WHERE key = 'schema_version'"
_ADD_WORKER = "INSERT INTO workers (id, batch, pos, lease_until) VALUES (?, 0, 0, 0)"
_VIEW = "SELECT view FROM stream WHERE one = 1"
_RAISE_VIEW = "UPDATE stream SET view = view + 1 WHERE one = 1 RETURNING pos, view"
_ADD_VIEW = "INSERT INTO views (view, members) VALUES (?, ?)"
_NO_WORKERS = "DELETE FROM workers"
_ADD_TIMELINE = (
    "INSERT INTO timelines (timeline_nid, id, from_pos)"
    " SELECT coalesce(max(timeline_nid), 0) + 1, ?, ? FROM timelines"
)
_TIMELINES = "SELECT timeline_nid, id, from_pos FROM timelines ORDER BY timeline_nid DESC LIMIT ?"


def _prepare(connection: apsw.Connection) -> Batches:
    """Migrate, and enter this process as a worker."""
    batches = Batches(secrets.token_hex(8))
    try:
        with transaction(connection):
            connection.execute(version_table("sqlite"))
            for statement in statements_from(_number(connection, _VERSION), "sqlite"):
                connection.execute(statement)
            connection.execute(_ADD_WORKER, (batches.worker_id,))
            batches.view = _number(connection, _VIEW)
    except (apsw.Error, CommitFailed) as error:
        raise StorageError(f"The database can't be prepared: {error}") from error
    return batches


def _leave(connection: apsw.Connection, batches: Batches) -> None:
    with contextlib.suppress(CommitFailed), transaction(connection):
        connection.execute("DELETE FROM workers WHERE id = ?", (batches.worker_id,))


def _take_numbers(connection: apsw.Connection, counter: str, count: int) -> int:
    return _number(connection, _TAKE_NUMBERS, counter, count)


def _number(connection: apsw.Connection, sql: str, *args: Any) -> int:
    rows: list[tuple[Any, ...]] = connection.execute(sql, args).fetchall()
    return int(rows[0][0])


def _name_row(connection: apsw.Connection, nid: int | None, name: str) -> int | None:
    if nid is None:
        found = connection.execute(_NAME, (name,)).fetchone()
        return None if found is None else int(found[0])
    connection.execute("INSERT INTO names (name_nid, name) VALUES (?, ?)", (nid, name))
    return nid


def _key_row(connection: apsw.Connection, nid: int | None, key: tuple[int, int]) -> int | None:
    if nid is None:
        found = connection.execute(_KEY, key).fetchone()
        return None if found is None else int(found[0])
    connection.execute(
        "INSERT INTO state_keys (key_nid, type_nid, name_nid) VALUES (?, ?, ?)", (nid, *key)
    )
    return nid


def _intern(
    connection: apsw.Connection,
    counter: str,
    keys: Sequence[Key],
    row: Callable[[apsw.Connection, int | None, Key], int | None],
) -> dict[Key, int]:
    """Numbers of `keys`; `row` finds the one of a key, or with a number writes it."""
    numbers: dict[Key, int] = {}
    with transaction(connection):
        for key in keys:
            found = row(connection, None, key)
            if found is None:
                found = row(connection, _take_numbers(connection, counter, 1), key)
            assert found is not None
            numbers[key] = found
    return numbers


def _start(connection: apsw.Connection, batches: Batches) -> list[TimelineRow]:
    with transaction(connection):
        raised: list[tuple[Any, ...]] = connection.execute(_RAISE_VIEW).fetchall()
        pos, view = raised[0]
        connection.execute(_ADD_VIEW, (view, json.dumps([batches.worker_id])))
        connection.execute(_NO_WORKERS)
        connection.execute(_ADD_WORKER, (batches.worker_id,))
        connection.execute(_ADD_TIMELINE, (secrets.token_hex(8), pos))
        rows = connection.execute(_TIMELINES, (TIMELINES_KEPT,)).fetchall()
    batches.view = view
    return [TimelineRow(*row) for row in reversed(rows)]
