"""PostgreSQL: every batch is one transaction in one round trip.

Positions are worked out by the server, relative to the row of the stream that the first statement
of the batch has just moved, so no turn of ours lies between that and the commit, and nobody waits
for us while we hold the row. A refused fence, a batch number that does not follow and a missed
expectation are errors of SQL in the statement itself: nothing after them is run. When the answer to
a batch is lost it is sent again with the same number, and being refused then means that it had been
committed. Reads go over a few shared connections; see `postgres_wire`.
"""

import asyncio
import contextlib
import itertools
import json
import secrets
import time
from collections.abc import Collection, Sequence
from typing import Any, LiteralString

import psycopg

from storage.changes import (
    CommitFailed,
    Conflict,
    DatabaseGone,
    Do,
    Fenced,
    Item,
    Malformed,
    Missed,
    Pos,
    Rows,
    check_texts,
    first_positions,
    plan,
)
from storage.engine import TIMELINES_KEPT, Database, StorageError, placeholders
from storage.migrations import statements_from, version_table
from storage.postgres_wire import Array, Lost, Refused, Statement, Wire
from storage.schema import TABLES, Table, TimelineRow

_READERS = 2
_SCANNERS = 2
_PATIENCE = 20.0
_NAMES_AT_ONCE = 64

_RELATIVE = 1 << 62
"""Positions from here on are relative to the stream's position after the batch."""

_TAKE_POSITIONS = "UPDATE stream SET pos = pos + $1 / (view = $2)::int WHERE one = 1 RETURNING pos"
_TAKE_BATCH = (
    "WITH taken AS (UPDATE workers SET batch = $1, pos = (SELECT pos FROM stream WHERE one = 1)"
    " WHERE id = $2 AND batch = $1 - 1 RETURNING 1)"
    " SELECT 1 / (count(*) = 1)::int FROM taken"
)
_LAST_BATCH = "SELECT batch, pos FROM workers WHERE id = $1"
_SKIP_BATCH = "UPDATE workers SET batch = batch + 1 WHERE id = $1 RETURNING batch"
_TAKE_NUMBERS = (
    "INSERT INTO numbers (counter, next) VALUES ($1, 1 + $2)"
    " ON CONFLICT (counter) DO UPDATE SET next = numbers.next + $2 RETURNING next - $2"
)
_NAMES = "SELECT name, name_nid FROM names WHERE name = ANY($1)"
_ADD_NAMES = (
    "INSERT INTO names (name_nid, name) SELECT * FROM unnest($1::bigint[], $2::text[])"
    " ON CONFLICT (name) DO NOTHING"
)
_KEYS = (
    "SELECT type_nid, name_nid, key_nid FROM state_keys"
    " JOIN unnest($1::bigint[], $2::bigint[]) AS wanted (of_type, of_name)"
    " ON type_nid = of_type AND name_nid = of_name"
)
_ADD_KEYS = (
    "INSERT INTO state_keys (key_nid, type_nid, name_nid)"
    " SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[])"
    " ON CONFLICT (type_nid, name_nid) DO NOTHING"
)
_ADD_WORKER = "INSERT INTO workers (id, batch, pos, lease_until) VALUES ($1, 0, 0, 0)"
_LEAVE = "DELETE FROM workers WHERE id = $1"
_VIEW = "SELECT view FROM stream WHERE one = 1"
_RAISE_VIEW = "UPDATE stream SET view = view + 1 WHERE one = 1"
_ADD_VIEW = "INSERT INTO views (view, members) SELECT view, $1 FROM stream WHERE one = 1"
_ONLY_WORKER = "DELETE FROM workers WHERE id <> $1"
_ADD_TIMELINE = (
    "INSERT INTO timelines (timeline_nid, id, from_pos)"
    " SELECT (SELECT coalesce(max(timeline_nid), 0) + 1 FROM timelines), $1, pos"
    " FROM stream WHERE one = 1"
)
_TIMELINES = "SELECT timeline_nid, id, from_pos FROM timelines ORDER BY timeline_nid DESC LIMIT $1"

_DIVISION_BY_ZERO = "22012"
_LOST_STATES = ("57P01", "57P02", "57P03", "25006", "40001", "40P01", "40003", "55P03", "26000")
_MALFORMED_STATES = ("22021", "22P05", "22003", "23502", "42804")


class Line:
    """A place for a connection, which is opened when it is needed and there is none."""

    def __init__(self, dsn: str, parameters: dict[str, Any]) -> None:
        self._dsn = dsn
        self._parameters = parameters
        self._opening = asyncio.Lock()
        self._wire: Wire | None = None

    async def wire(self) -> Wire:
        """The open connection; raises `Lost`."""
        if self._wire is None or not self._wire.alive:
            async with self._opening:
                if self._wire is None or not self._wire.alive:
                    self._wire = await Wire.open(self._dsn, **self._parameters)
        return self._wire

    async def run(self, *statements: Statement) -> list[list[tuple[Any, ...]]]:
        """One transaction that may be run twice; keeps trying for a while, then `DatabaseGone`."""
        began = time.monotonic()
        for delay in _delays():
            try:
                return await (await self.wire()).run(statements)
            except Lost as error:
                failed: Exception = error
            except Refused as error:
                if not _is_lost(error):
                    raise
                failed = error
            if time.monotonic() - began > _PATIENCE:
                raise DatabaseGone(str(failed)) from failed
            await asyncio.sleep(delay)
        raise AssertionError("the delays have no end")

    async def close(self) -> None:
        if self._wire is not None:
            await self._wire.close()


class PostgresDatabase(Database):
    """A PostgreSQL database, which other processes may use beside this one."""

    dialect = "postgresql"

    def __init__(self, dsn: str, *, durable: bool) -> None:
        self._worker_id = secrets.token_hex(8)
        parameters: dict[str, Any] = {
            "connect_timeout": 5,
            "fallback_application_name": f"homeserver {self._worker_id}",
        }
        if not durable:
            parameters["options"] = "-c synchronous_commit=off"
        self._writer = Line(dsn, parameters)
        self._side = Line(dsn, parameters)
        self._readers = [Line(dsn, parameters) for _ in range(_READERS)]
        self._scanners = [Line(dsn, parameters) for _ in range(_SCANNERS)]
        self._next_reader = itertools.cycle(self._readers)
        self._next_scanner = itertools.cycle(self._scanners)
        self._one_batch = asyncio.Lock()
        self._batch = 0
        self._in_doubt = False
        self._view = 0
        self._spare: dict[str, range] = {}

    @classmethod
    async def open(cls, dsn: str, *, durable: bool = True) -> "PostgresDatabase":
        """Connect and migrate; raises `StorageError`."""
        try:
            await _migrate(dsn)
            database = cls(dsn, durable=durable)
            await database._enter()
        except psycopg.Error as error:
            raise StorageError(f"PostgreSQL can't be used: {str(error).strip()}") from error
        return database

    async def _enter(self) -> None:
        added = Statement(_ADD_WORKER, (self._worker_id,))
        try:
            _, view = await (await self._writer.wire()).run([added, Statement(_VIEW, ())])
        except Lost as error:
            raise StorageError(f"PostgreSQL can't be reached: {error}") from error
        self._view = view[0][0]

    async def fetch(self, sql: LiteralString, *args: Any) -> list[tuple[Any, ...]]:
        return (await next(self._next_reader).run(statement(sql, args)))[0]

    async def scan(self, sql: LiteralString, *args: Any) -> list[tuple[Any, ...]]:
        return (await next(self._next_scanner).run(statement(sql, args)))[0]

    async def reserve(self, counter: str, count: int) -> int:
        ((row,),) = await self._side.run(Statement(_TAKE_NUMBERS, (counter, count)))
        return int(row[0])

    async def intern(self, names: Collection[str]) -> dict[str, int]:
        check_texts(names)
        look = Statement(_NAMES, (Array(str, list(names)),))
        known: dict[str, int] = dict((await next(self._next_reader).run(look))[0])
        missing = sorted({name for name in names if name not in known})
        if missing:
            numbers = await self._numbers("name", len(missing))
            added = Statement(_ADD_NAMES, (Array(int, numbers), Array(str, missing)))
            _, found = await self._side.run(added, Statement(_NAMES, (Array(str, missing),)))
            known.update(found)
        return known

    async def intern_keys(self, keys: Collection[tuple[int, int]]) -> dict[tuple[int, int], int]:
        (rows,) = await next(self._next_reader).run(Statement(_KEYS, _pairs(list(keys))))
        known = {(type_nid, name_nid): nid for type_nid, name_nid, nid in rows}
        missing = sorted(set(keys) - known.keys())
        if missing:
            numbers = await self._numbers("key", len(missing))
            added = Statement(_ADD_KEYS, (Array(int, numbers), *_pairs(missing)))
            _, rows = await self._side.run(added, Statement(_KEYS, _pairs(missing)))
            known |= {(type_nid, name_nid): nid for type_nid, name_nid, nid in rows}
        return known

    async def _numbers(self, counter: str, count: int) -> range:
        spare = self._spare.get(counter, range(0))
        if len(spare) < count:
            block = max(count, _NAMES_AT_ONCE)
            first = await self.reserve(counter, block)
            spare = range(first, first + block)
        self._spare[counter] = spare[count:]
        return spare[:count]

    async def start_timeline(self) -> list[TimelineRow]:
        async with self._one_batch:
            *_, view, rows = await self._writer.run(
                Statement(_RAISE_VIEW, ()),
                Statement(_ADD_VIEW, (json.dumps([self._worker_id]),)),
                Statement(_ONLY_WORKER, (self._worker_id,)),
                Statement(_ADD_TIMELINE, (secrets.token_hex(8),)),
                Statement(_VIEW, ()),
                Statement(_TIMELINES, (TIMELINES_KEPT,)),
            )
            self._view = view[0][0]
        return [TimelineRow(*row) for row in reversed(rows)]

    async def close(self) -> None:
        async with self._one_batch:
            with contextlib.suppress(Lost, Refused):
                await (await self._writer.wire()).run([Statement(_LEAVE, (self._worker_id,))])
            for line in (self._writer, self._side, *self._readers, *self._scanners):
                await line.close()

    # --- The commit ------------------------------------------------------------------------------

    async def commit(self, items: Sequence[Item]) -> list[int]:
        total = sum(item.positions for item in items)
        steps = plan(items, _RELATIVE - total + 1)
        writes = [write for step in steps for write in _writes(step)]
        last = await asyncio.shield(self._commit(total, writes))
        return first_positions(items, last - total + 1)

    async def _commit(self, total: int, writes: list[Statement]) -> int:
        """The stream's position after the batch."""
        async with self._one_batch:
            began = time.monotonic()
            sent = False
            for delay in _delays():
                try:
                    wire = await self._writer.wire()
                    if self._in_doubt:
                        await self._settle(wire)
                    answer = wire.run(self._statements(total, writes))
                    again, sent = sent, True
                    rows = await answer
                except Lost as error:
                    failed: Exception = error
                except Refused as error:
                    if not _is_lost(error):
                        return await self._refused(error, writes, wire, again=again)
                    failed = error
                else:
                    self._batch += 1
                    return int(rows[0][0][0])
                if time.monotonic() - began > _PATIENCE:
                    self._in_doubt = True
                    raise DatabaseGone(str(failed)) from failed
                await asyncio.sleep(delay)
            raise AssertionError("the delays have no end")

    def _statements(self, total: int, writes: list[Statement]) -> list[Statement]:
        return [
            Statement(_TAKE_POSITIONS, (total, self._view)),
            Statement(_TAKE_BATCH, (self._batch + 1, self._worker_id)),
            *writes,
        ]

    async def _refused(
        self, error: Refused, writes: list[Statement], wire: Wire, *, again: bool
    ) -> int:
        """What a refusal means: the position of a batch that had been committed, or an error."""
        if error.index > 1 or error.state != _DIVISION_BY_ZERO:
            raise _failure(error, writes) from error
        if again:
            try:
                rows = (await wire.run([Statement(_LAST_BATCH, (self._worker_id,))]))[0]
            except Lost as lost:
                self._in_doubt = True
                raise DatabaseGone(str(lost)) from lost
            if rows and rows[0][0] == self._batch + 1:
                self._batch += 1
                return int(rows[0][1])
        raise Fenced(
            "another process has taken the database over"
            if error.index == 0
            else "this process is no longer known to the database"
        ) from error

    async def _settle(self, wire: Wire) -> None:
        """Make sure that a batch that was given up can't be committed any more."""
        rows = (await wire.run([Statement(_SKIP_BATCH, (self._worker_id,))]))[0]
        if not rows:
            raise Fenced("this process is no longer known to the database")
        self._batch = rows[0][0]
        self._in_doubt = False


def _delays() -> itertools.chain[float]:
    return itertools.chain((0.0, 0.05, 0.1, 0.2, 0.5), itertools.repeat(1.0))


def _is_lost(error: Refused) -> bool:
    return error.state.startswith("08") or error.state in _LOST_STATES


def _pairs(keys: Sequence[tuple[int, int]]) -> tuple[Array, Array]:
    return Array(int, [key[0] for key in keys]), Array(int, [key[1] for key in keys])


async def _migrate(dsn: str) -> None:
    connection = await psycopg.AsyncConnection.connect(dsn, connect_timeout=5)
    async with connection:
        if connection.info.parameter_status("server_encoding") != "UTF8":
            raise StorageError("The PostgreSQL database must have the encoding UTF8")
        for _ in range(10):
            try:
                await connection.execute(version_table("postgresql").encode())
                await connection.commit()
                break
            except (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateTable):
                await connection.rollback()
        await connection.execute(
            "INSERT INTO meta (key, value) VALUES ('schema_version', '0') ON CONFLICT DO NOTHING"
        )
        cursor = await connection.execute(
            "SELECT value FROM meta WHERE key = 'schema_version' FOR UPDATE"
        )
        (version,) = await cursor.fetchone() or ("0",)
        for text in statements_from(int(version), "postgresql"):
            await connection.execute(text.encode())


# --- Statements ----------------------------------------------------------------------------------

_texts: dict[tuple[str, tuple[bool, ...]], str] = {}
_STREAM_POS = "(SELECT pos FROM stream WHERE one = 1)"


def translated(sql: LiteralString, relative: tuple[bool, ...]) -> str:
    """The text with PostgreSQL's placeholders; `relative` says which values are positions."""
    text = _texts.get((sql, relative))
    if text is None:
        parts = placeholders(sql)
        for n, i in enumerate(range(1, len(parts), 2), 1):
            if parts[i] == "?":
                parts[i] = f"({_STREAM_POS} + ${n}::bigint)" if relative[n - 1] else f"${n}"
            else:
                parts[i] = f"= ANY(${n})"
        text = _texts[sql, relative] = "".join(parts)
    return text


def statement(sql: LiteralString, args: Sequence[Any]) -> Statement:
    """A statement of a caller: collections become arrays, `Pos` relative to the stream's row."""
    relative = tuple(type(arg) is Pos for arg in args)
    values = [
        arg - _RELATIVE
        if type(arg) is Pos
        else _collection(arg)
        if isinstance(arg, Collection) and not isinstance(arg, str | bytes)
        else arg
        for arg in args
    ]
    return Statement(translated(sql, relative), values)


def _collection(values: Collection[Any]) -> Array | None:
    check_texts(values)
    for value in values:
        return Array(int if isinstance(value, int) else type(value), values)
    return None


class _Texts:
    """The three grouped writes of a table."""

    def __init__(self, table: Table) -> None:
        names = ", ".join(table.column_names)
        self.insert = (
            f"INSERT INTO {table.name} ({names}) SELECT {_given(table.columns)}"
            f" FROM unnest({_arrays(table.columns)}) AS given ({names})"
        )
        updates = ", ".join(
            f"{name} = excluded.{name}" for name in table.column_names if name not in table.key
        )
        self.put = (
            f"{self.insert} ON CONFLICT ({', '.join(table.key)})"
            f" DO {'UPDATE SET ' + updates if updates else 'NOTHING'}"
        )
        self.delete = (
            f"DELETE FROM {table.name} AS t USING (SELECT {_given(table.key_columns, named=True)}"
            f" FROM unnest({_arrays(table.key_columns)}) AS given ({', '.join(table.key)})) AS g"
            f" WHERE {' AND '.join(f't.{name} = g.{name}' for name in table.key)}"
        )


_CAST = {int: "bigint", str: "text", bytes: "bytea"}


def _arrays(columns: Sequence[Any]) -> str:
    return ", ".join(f"${n}::{_CAST[column.kind]}[]" for n, column in enumerate(columns, 1))


def _given(columns: Sequence[Any], *, named: bool = False) -> str:
    return ", ".join(
        f"CASE WHEN given.{c.name} > {_RELATIVE >> 1} THEN given.{c.name} - {_RELATIVE}"
        f" + {_STREAM_POS} ELSE given.{c.name} END{f' AS {c.name}' if named else ''}"
        if c.position
        else f"given.{c.name}"
        for c in columns
    )


_TEXTS = {table: _Texts(table) for table in TABLES.values()}


def _writes(step: Rows | Do) -> list[Statement]:
    if isinstance(step, Do):
        text, values = statement(step.sql, step.args)
        if step.expect is not None:
            text = (
                f"WITH done AS ({text} RETURNING 1)"
                f" SELECT 1 / (count(*) = {int(step.expect)})::int FROM done"
            )
        return [Statement(text, values)]
    texts, table = _TEXTS[step.table], step.table
    return [
        Statement(text, _columns(columns, rows))
        for text, columns, rows in (
            (texts.delete, table.key_columns, step.deletes),
            (texts.insert, table.columns, step.inserts),
            (texts.put, table.columns, step.puts),
        )
        if rows
    ]


def _columns(columns: Sequence[Any], rows: Sequence[tuple[Any, ...]]) -> list[Array]:
    return [
        Array(column.kind, values)
        for column, values in zip(columns, zip(*rows, strict=True), strict=True)
    ]


def _failure(error: Refused, writes: list[Statement]) -> CommitFailed:
    """The kind of `CommitFailed` that a refusal by the server is."""
    if error.state == "23505":
        return Conflict(error.table)
    if error.state == _DIVISION_BY_ZERO:
        return Missed(f"rows missed by: {writes[error.index - 2].sql}")
    if error.state in _MALFORMED_STATES:
        return Malformed(str(error))
    return CommitFailed(str(error))
