"""The one thread that writes to SQLite, and the one that moves the WAL into the file.

Jobs run in the order in which they came, each a function of the writing connection; its result or
error goes to the caller's future. Invariant: between jobs no transaction is open. The batch commit
stands here too, as the job that matters. What is durable is decided by the connection's settings.
"""

import asyncio
import contextlib
import threading
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, LiteralString, TypeVar

import apsw

from storage.changes import (
    CommitFailed,
    Conflict,
    DatabaseGone,
    Do,
    Fenced,
    Item,
    Malformed,
    Missed,
    Rows,
    first_positions,
    plan,
)
from storage.engine import placeholders
from storage.schema import TABLES, Table

Result = TypeVar("Result")
Job = Callable[[apsw.Connection], Any]

_CHECKPOINT_PAGES = 1_000
_FINISH_PAGES = 8_000

_TAKE_POSITIONS = "UPDATE stream SET pos = pos + ? WHERE one = 1 AND view = ? RETURNING pos"


class Statements:
    """The three grouped writes of a table, as `executemany` wants them."""

    def __init__(self, table: Table) -> None:
        names = table.column_names
        others = [name for name in names if name not in table.key]
        self.insert = (
            f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        )
        update = ", ".join(f"{name} = excluded.{name}" for name in others)
        self.put = (
            f"{self.insert} ON CONFLICT ({', '.join(table.key)})"
            f" DO {'UPDATE SET ' + update if update else 'NOTHING'}"
        )
        keys = " AND ".join(f"{name} = ?" for name in table.key)
        self.delete = f"DELETE FROM {table.name} WHERE {keys}"


STATEMENTS = {table: Statements(table) for table in TABLES.values()}

_texts: dict[str, str] = {}


def translated(sql: LiteralString) -> str:
    """The text with `IN (??)` as SQLite wants it."""
    text = _texts.get(sql)
    if text is None:
        text = _texts[sql] = "".join(
            "IN carray(?)" if part == "IN (??)" else part for part in placeholders(sql)
        )
    return text


class Batches:
    """Commits batches as one worker; used in the writing thread only."""

    def __init__(self, worker_id: str) -> None:
        self.worker_id = worker_id
        self.view = 0

    def commit(self, connection: apsw.Connection, items: Sequence[Item]) -> list[int]:
        """One transaction; the first position of each item."""
        total = sum(item.positions for item in items)
        with transaction(connection):
            taken = connection.execute(_TAKE_POSITIONS, (total, self.view)).fetchone()
            if taken is None:
                raise Fenced("another process has taken the database over")
            start = taken[0] - total + 1
            for step in plan(items, start):
                if isinstance(step, Rows):
                    _write(connection, step)
                else:
                    _do(connection, step)
        return first_positions(items, start)


@contextlib.contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """BEGIN, then COMMIT or ROLLBACK; errors of the database become `CommitFailed`."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except apsw.Error as error:
        raise failure(error) from error
    except OverflowError as error:
        raise Malformed("a number needs more than 64 bits") from error
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def failure(error: apsw.Error) -> CommitFailed:
    """The kind of `CommitFailed` that an error of SQLite is."""
    if isinstance(error, apsw.ConstraintError):
        if getattr(error, "extendedresult", 0) in (
            apsw.SQLITE_CONSTRAINT_UNIQUE,
            apsw.SQLITE_CONSTRAINT_PRIMARYKEY,
            apsw.SQLITE_CONSTRAINT_ROWID,
        ):
            return Conflict(str(error).partition(": ")[2].partition(".")[0])
        return Malformed(str(error))
    if isinstance(error, apsw.MismatchError):
        return Malformed(str(error))
    if isinstance(error, apsw.FullError | apsw.IOError | apsw.CantOpenError | apsw.ReadOnlyError):
        return DatabaseGone(str(error))
    return CommitFailed(str(error))


def _write(connection: apsw.Connection, rows: Rows) -> None:
    statements = STATEMENTS[rows.table]
    if rows.deletes:
        connection.executemany(statements.delete, rows.deletes)
    if rows.inserts:
        connection.executemany(statements.insert, rows.inserts)
    if rows.puts:
        connection.executemany(statements.put, rows.puts)


def _do(connection: apsw.Connection, step: Do) -> None:
    connection.execute(translated(step.sql), bound(step.args))
    if step.expect is not None and connection.changes() != step.expect:
        raise Missed(f"{connection.changes()} rows instead of {step.expect}: {step.sql}")


def bound(args: Sequence[Any]) -> list[Any]:
    """Arguments as apsw wants them; collections become carrays. Raises `Malformed`."""
    return [
        carray(arg) if isinstance(arg, list | tuple | set | frozenset | dict) else arg
        for arg in args
    ]


def carray(collection: Collection[Any]) -> Any:
    """The values (all numbers, all texts or all blobs) for `IN carray(?)`; NULL when empty."""
    values = tuple(collection)
    if not values:
        return None
    if isinstance(values[0], int):
        try:
            return apsw.carray(array("q", values))
        except OverflowError:
            raise Malformed("a number needs more than 64 bits") from None
    return apsw.carray(values)


class Writer:
    """The writing thread."""

    def __init__(self, connection: apsw.Connection, checkpointing: apsw.Connection) -> None:
        self._connection = connection
        self._checkpointing = checkpointing
        self._jobs: SimpleQueue[tuple[Job, asyncio.Future[Any]] | None] = SimpleQueue()
        self._wal_pages = 0
        self._checkpoint_at = _CHECKPOINT_PAGES
        self._finish_at = _FINISH_PAGES
        self._wake = threading.Event()
        self._closing = False
        connection.set_wal_hook(self._on_commit)
        self._threads = [
            threading.Thread(target=self._write, name="storage-writer", daemon=True),
            threading.Thread(target=self._checkpoint, name="storage-checkpoint", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def run(self, job: Callable[[apsw.Connection], Result]) -> asyncio.Future[Result]:
        """Queue a job; call on the loop that waits for the answer."""
        if self._closing:
            raise DatabaseGone("the database is closed")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._jobs.put((job, future))
        return future

    async def close(self) -> None:
        """Run what was queued, end the threads and close their connections."""
        self._closing = True
        self._jobs.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _write(self) -> None:
        while (task := self._jobs.get()) is not None:
            job, future = task
            try:
                result, failed = job(self._connection), None
            except BaseException as error:  # belongs to the caller, whatever it is
                result, failed = None, error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                future.get_loop().call_soon_threadsafe(_resolve, future, result, failed)
            if self._wal_pages > self._finish_at:
                self._finish_at = self._wal_pages + _CHECKPOINT_PAGES
                # Only between commits can a checkpoint reach the end, so that the WAL begins anew.
                with contextlib.suppress(apsw.Error):
                    self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        self._wake.set()
        self._connection.close()

    def _on_commit(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        if pages < self._wal_pages:
            self._checkpoint_at = _CHECKPOINT_PAGES
            self._finish_at = _FINISH_PAGES
        self._wal_pages = pages
        if pages > self._checkpoint_at:
            self._checkpoint_at = pages + _CHECKPOINT_PAGES
            self._wake.set()
        return apsw.SQLITE_OK

    def _checkpoint(self) -> None:
        while self._wake.wait() and not self._closing:
            self._wake.clear()
            with contextlib.suppress(apsw.Error):
                self._checkpointing.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        self._checkpointing.close()


def _resolve(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
