"""One connection to PostgreSQL in pipeline mode, many requests under way at once.

A request is a list of statements that make one transaction (they share one Sync) and cost one round
trip. Requests are answered in the order in which they were sent; one that fails leaves the ones
after it alone. Statements are prepared on first use; values travel in binary. Invariant: every
future handed out is resolved, by an answer or by `Lost`. This module knows no table.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from struct import Struct
from struct import error as StructError  # noqa: N812 - the module's own name says nothing
from typing import Any, NamedTuple

import psycopg
from psycopg.adapt import Transformer
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult

from storage.changes import Malformed, check_text

Rows = list[tuple[Any, ...]]


class Statement(NamedTuple):
    """A text with `$1`, `$2`, ... and its values: numbers, texts, bytes, None or `Array`."""

    sql: str
    values: Sequence[Any]


class Array(NamedTuple):
    """A value of an array type; `values` may hold None."""

    kind: type
    values: Collection[Any]


class Refused(Exception):
    """The server refused a statement, the `index`-th of its request, with a five-letter `state`."""

    def __init__(self, index: int, state: str, table: str, message: str) -> None:
        super().__init__(f"{message} ({state})")
        self.index = index
        self.state = state
        self.table = table


class Lost(Exception):
    """The connection is gone; whether the request was done is not known."""


class Wire:
    """An open connection; use on the loop that opened it."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._transformer = Transformer(connection)
        self._prepared: dict[tuple[str, tuple[int, ...]], bytes] = {}
        self._named = 0
        self._requests: deque[_Request] = deque()
        self._loop = asyncio.get_running_loop()
        self._socket = self._pgconn.socket
        self._writing = False
        self.alive = True
        self._pgconn.nonblocking = 1
        self._pgconn.enter_pipeline_mode()
        self._loop.add_reader(self._socket, self._readable)

    @classmethod
    async def open(cls, dsn: str, **parameters: Any) -> "Wire":
        """Connect; raises `Lost` when that fails."""
        try:
            return cls(await psycopg.AsyncConnection.connect(dsn, autocommit=True, **parameters))
        except psycopg.OperationalError as error:
            raise Lost(str(error).strip()) from error

    def run(self, statements: Sequence[Statement]) -> "asyncio.Future[list[Rows]]":
        """Send one transaction; the rows of each statement.

        The future fails with `Refused` or `Lost`; a value that can't be sent raises `Malformed`
        here, and then nothing was sent.
        """
        encoded = [(statement.sql, *encode(statement.values)) for statement in statements]
        request = _Request(self._loop.create_future())
        if not self.alive:
            request.future.set_exception(Lost("the connection is closed"))
            return request.future
        try:
            for sql, values, types in encoded:
                name = self._prepared.get((sql, types))
                if name is None:
                    name = self._prepare(request, sql, types)
                request.prepares.append(None)
                self._pgconn.send_query_prepared(name, values, [1] * len(values), 1)
            self._pgconn.pipeline_sync()
        except psycopg.OperationalError as error:
            self._lose(error)
            request.future.set_exception(Lost(str(error)))
            return request.future
        self._requests.append(request)
        self._flush()
        return request.future

    async def close(self) -> None:
        """Close the connection; requests under way fail with `Lost`."""
        self._lose(Lost("the connection was closed"))

    def _prepare(self, request: "_Request", sql: str, types: tuple[int, ...]) -> bytes:
        self._named += 1
        name = b"s%d" % self._named
        self._pgconn.send_prepare(name, sql.encode(), types)
        self._prepared[sql, types] = name
        request.prepares.append((sql, types))
        return name

    def _flush(self) -> None:
        try:
            unsent = self._pgconn.flush()
        except psycopg.OperationalError as error:
            self._lose(error)
            return
        if bool(unsent) != self._writing:
            self._writing = bool(unsent)
            if unsent:
                self._loop.add_writer(self._socket, self._flush)
            else:
                self._loop.remove_writer(self._socket)

    def _readable(self) -> None:
        try:
            self._pgconn.consume_input()
            while self._requests and not self._pgconn.is_busy():
                result = self._pgconn.get_result()
                if result is not None:
                    self._take(result)
            if self._writing:
                self._flush()
        except psycopg.Error as error:
            self._lose(error)

    def _take(self, result: PGresult) -> None:
        request = self._requests[0]
        status = result.status
        if status == ExecStatus.PIPELINE_SYNC:
            self._requests.popleft()
            request.resolve()
            return
        step = request.prepares[request.seen]
        request.seen += 1
        if status == ExecStatus.TUPLES_OK:
            self._transformer.set_pgresult(result)
            request.rows.append(self._transformer.load_rows(0, result.ntuples, tuple))
        elif status == ExecStatus.COMMAND_OK:
            if step is None:
                request.rows.append([])
        else:
            if step is not None:
                self._prepared.pop(step, None)
            if status != ExecStatus.PIPELINE_ABORTED:
                request.error = _refused(len(request.rows), result)

    def _lose(self, error: Exception) -> None:
        if not self.alive:
            return
        self.alive = False
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._pgconn.finish()
        while self._requests:
            request = self._requests.popleft()
            request.error = request.error or Lost(str(error).strip())
            request.resolve()


class _Request:
    """What is awaited for one transaction; `prepares` has a key for a Parse, None for a run."""

    __slots__ = ("error", "future", "prepares", "rows", "seen")

    def __init__(self, future: "asyncio.Future[list[Rows]]") -> None:
        self.future = future
        self.prepares: list[tuple[str, tuple[int, ...]] | None] = []
        self.seen = 0
        self.rows: list[Rows] = []
        self.error: Exception | None = None

    def resolve(self) -> None:
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.rows)
        else:
            self.future.set_exception(self.error)


def _refused(index: int, result: PGresult) -> Refused:
    def text(field: DiagnosticField) -> str:
        return (result.error_field(field) or b"").decode(errors="replace")

    return Refused(
        index,
        text(DiagnosticField.SQLSTATE),
        text(DiagnosticField.TABLE_NAME),
        text(DiagnosticField.MESSAGE_PRIMARY),
    )


# --- Values in PostgreSQL's binary format --------------------------------------------------------

_INT8, _TEXT, _BYTEA = 20, 25, 17
_ARRAYS = {int: 1016, str: 1009, bytes: 1001}
_ELEMENTS = {int: _INT8, str: _TEXT, bytes: _BYTEA}
_int8 = Struct(">q").pack
_length = Struct(">i").pack
_int8_element = Struct(">iq").pack
_array_head = Struct(">iiiii").pack
_EMPTY_HEAD = Struct(">iii").pack
_NULL = _length(-1)


def encode(values: Sequence[Any]) -> tuple[list[bytes | None], tuple[int, ...]]:
    """The values' bytes and types; raises `Malformed` for what PostgreSQL can't hold."""
    encoded: list[bytes | None] = []
    types: list[int] = []
    try:
        for value in values:
            if isinstance(value, int):
                encoded.append(_int8(value))
                types.append(_INT8)
            elif isinstance(value, str):
                check_text(value)
                encoded.append(value.encode())
                types.append(_TEXT)
            elif isinstance(value, Array):
                encoded.append(_array(value))
                types.append(_ARRAYS[value.kind])
            elif value is None:
                encoded.append(None)
                types.append(0)
            else:
                encoded.append(bytes(value))
                types.append(_BYTEA)
    except StructError as error:
        raise Malformed(f"not a number of 64 bits: {error}") from error
    return encoded, tuple(types)


def _array(array: Array) -> bytes:
    values, kind = array.values, array.kind
    if not values:
        return _EMPTY_HEAD(0, 0, _ELEMENTS[kind])
    parts = [_array_head(1, int(None in values), _ELEMENTS[kind], len(values), 1)]
    if kind is int:
        parts += [_NULL if value is None else _int8_element(8, value) for value in values]
    else:
        for value in values:
            if value is None:
                parts.append(_NULL)
            else:
                data = value.encode() if kind is str else value
                parts += (_length(len(data)), data)
    return b"".join(parts)
