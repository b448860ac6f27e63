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
from psycopg.conninfo import conninfo_to_dict

from storage.changes import (
    DatabaseGone,
    Fenced,
    Item,
    check_texts,
    first_positions,
    plan,
)
from storage.engine import TIMELINES_KEPT, Database, StorageError
from storage.migrations import statements_from, version_table
from storage.postgres_statements import (
    DIVISION_BY_ZERO,
    RELATIVE,
    failure,
    is_lost,
    statement,
    writes,
)
from storage.postgres_wire import Array, Lost, Refused, Statement, Wire
from storage.schema import TimelineRow

_READERS = 2
_SCANNERS = 2
_PATIENCE = 20.0
_PARAMETERS: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""For connections, unless the DSN has its own: a server that falls silent is lost in 10 s."""
_NAMES_AT_ONCE = 64

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
_ADD_WORKER = "INSERT INTO workers (id, batch, pos, lease_until) VALUES ($1, $2, 0, 0)"
_LEAVE = "DELETE FROM workers WHERE id = $1"
_VIEW = "SELECT view FROM stream WHERE one = 1"
_RAISE_VIEW = "UPDATE stream SET view = view + 1 WHERE one = 1"
_ADD_VIEW = "INSERT INTO views (view, members) SELECT view, $1 FROM stream WHERE one = 1"
_NO_WORKERS = "DELETE FROM workers"
_ADD_TIMELINE = (
    "INSERT INTO timelines (timeline_nid, id, from_pos)"
    " SELECT (SELECT coalesce(max(timeline_nid), 0) + 1 FROM timelines), $1, pos"
    " FROM stream WHERE one = 1"
)
_TIMELINES = "SELECT timeline_nid, id, from_pos FROM timelines ORDER BY timeline_nid DESC LIMIT $1"


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
                if not is_lost(error):
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
        given = conninfo_to_dict(dsn)
        parameters = {key: value for key, value in _PARAMETERS.items() if key not in given}
        parameters["fallback_application_name"] = f"homeserver {self._worker_id}"
        if not durable:
            options = f"{given.get('options') or ''} -c synchronous_commit=off"
            parameters["options"] = options.strip()
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
        added = Statement(_ADD_WORKER, (self._worker_id, self._batch))
        try:
            _, view = await (await self._writer.wire()).run([added, Statement(_VIEW, ())])
        except Lost as error:
            raise StorageError(f"PostgreSQL can't be reached: {error}") from error
        self._view = view[0][0]

    async def fetch(self, sql: LiteralString, *args: Any) -> list[tuple[Any, ...]]:
        began = time.perf_counter()
        rows = (await next(self._next_reader).run(statement(sql, args)))[0]
        self.timed(time.perf_counter() - began)
        return rows

    async def scan(self, sql: LiteralString, *args: Any) -> list[tuple[Any, ...]]:
        began = time.perf_counter()
        rows = (await next(self._next_scanner).run(statement(sql, args)))[0]
        self.timed(time.perf_counter() - began)
        return rows

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
                Statement(_NO_WORKERS, ()),
                Statement(_ADD_WORKER, (self._worker_id, self._batch)),
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
        steps = plan(items, RELATIVE - total + 1)
        statements = [statement for step in steps for statement in writes(step)]
        last = await asyncio.shield(self._commit(total, statements))
        return first_positions(items, last - total + 1)

    async def _commit(self, total: int, statements: list[Statement]) -> int:
        """The stream's position after the batch."""
        async with self._one_batch:
            began = time.monotonic()
            sent = False
            for delay in _delays():
                try:
                    wire = await self._writer.wire()
                    if self._in_doubt:
                        await self._settle(wire)
                    whole = self._whole(total, statements)
                    answer = wire.run(whole)
                    again, sent = sent, True
                    rows = await answer
                except Lost as error:
                    failed: Exception = error
                except Refused as error:
                    if not is_lost(error):
                        return await self._refused(error, whole, wire, again=again)
                    failed = error
                else:
                    self._batch += 1
                    return int(rows[0][0][0])
                if time.monotonic() - began > _PATIENCE:
                    self._in_doubt = True
                    raise DatabaseGone(str(failed)) from failed
                await asyncio.sleep(delay)
            raise AssertionError("the delays have no end")

    def _whole(self, total: int, statements: list[Statement]) -> list[Statement]:
        return [
            Statement(_TAKE_POSITIONS, (total, self._view)),
            Statement(_TAKE_BATCH, (self._batch + 1, self._worker_id)),
            *statements,
        ]

    async def _refused(
        self, error: Refused, whole: list[Statement], wire: Wire, *, again: bool
    ) -> int:
        """What a refusal means: the position of a batch that had been committed, or an error."""
        if error.index > 1 or error.state != DIVISION_BY_ZERO:
            raise failure(error, whole) from error
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


def _pairs(keys: Sequence[tuple[int, int]]) -> tuple[Array, Array]:
    return Array(int, [key[0] for key in keys]), Array(int, [key[1] for key in keys])


_MADE_MEANWHILE = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.DuplicateTable,
    psycopg.errors.DuplicateObject,
)


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
            except _MADE_MEANWHILE:
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
