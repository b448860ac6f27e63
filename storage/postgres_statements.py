"""A batch and its statements as PostgreSQL wants them: positional placeholders, arrays, positions.

Grouped writes are one statement a table, whatever the number of rows. Positions travel relative to
the stream's row (`RELATIVE` and up) and are made absolute by the server. An expectation that is
missed divides by zero, so that nothing after it is run. Pure; the connection is in `postgres_wire`.
"""

from collections.abc import Collection, Sequence
from typing import Any, LiteralString

from storage.changes import (
    CommitFailed,
    Conflict,
    Do,
    Malformed,
    Missed,
    Pos,
    Step,
    check_texts,
)
from storage.engine import placeholders
from storage.postgres_wire import Array, Refused, Statement
from storage.schema import TABLES, Column, Table

RELATIVE = 1 << 62
"""Positions from here on are relative to the stream's position after the batch."""

DIVISION_BY_ZERO = "22012"
_LOST_STATES = ("57P01", "57P02", "57P03", "25006", "40001", "40P01", "40003", "55P03", "26000")
_MALFORMED_STATES = ("22021", "22P05", "22003", "23502", "42804")


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
        arg - RELATIVE
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


class Texts:
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


def _arrays(columns: Sequence[Column]) -> str:
    return ", ".join(f"${n}::{_CAST[column.kind]}[]" for n, column in enumerate(columns, 1))


def _given(columns: Sequence[Column], *, named: bool = False) -> str:
    return ", ".join(
        f"CASE WHEN given.{c.name} > {RELATIVE >> 1} THEN given.{c.name} - {RELATIVE}"
        f" + {_STREAM_POS} ELSE given.{c.name} END{f' AS {c.name}' if named else ''}"
        if c.position
        else f"given.{c.name}"
        for c in columns
    )


TEXTS = {table: Texts(table) for table in TABLES.values()}


def writes(step: Step) -> list[Statement]:
    if isinstance(step, Do):
        text, values = statement(step.sql, step.args)
        if step.expect is not None:
            text = (
                f"WITH done AS ({text} RETURNING 1)"
                f" SELECT 1 / (count(*) = {int(step.expect)})::int FROM done"
            )
        return [Statement(text, values)]
    texts, table = TEXTS[step.table], step.table
    return [
        Statement(text, _columns(columns, rows))
        for text, columns, rows in (
            (texts.delete, table.key_columns, step.deletes),
            (texts.insert, table.columns, step.inserts),
            (texts.put, table.columns, step.puts),
        )
        if rows
    ]


def _columns(columns: Sequence[Column], rows: Sequence[tuple[Any, ...]]) -> list[Array]:
    return [
        Array(column.kind, values)
        for column, values in zip(columns, zip(*rows, strict=True), strict=True)
    ]


def failure(error: Refused, sent: Sequence[Statement]) -> CommitFailed:
    """The kind of `CommitFailed` that a refusal by the server is."""
    if error.state == "23505":
        return Conflict(error.table)
    if error.state == DIVISION_BY_ZERO:
        return Missed(f"rows missed by: {sent[error.index].sql}")
    if error.state in _MALFORMED_STATES:
        return Malformed(str(error))
    return CommitFailed(str(error))


def is_lost(error: Refused) -> bool:
    return error.state.startswith("08") or error.state in _LOST_STATES
