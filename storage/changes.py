"""Change records: what callers hand to `Database.commit` instead of statements.

A change is data; `plan`, the pure half of a commit and the same for both databases, turns those of
a whole batch into a few grouped writes. Changes take effect in the order of their items. A later
change of a key replaces an earlier one, so a row that two items touch is written once, in its last
form. This module holds and runs no SQL.
"""

from collections.abc import Iterable, Sequence
from typing import Any, LiteralString, NamedTuple

from storage.schema import TABLES, Table


class CommitFailed(Exception):
    """Nothing of the batch was written."""


class Malformed(CommitFailed, ValueError):
    """A value that neither database can hold: a NUL or a lone surrogate in text, a huge number."""


class Conflict(CommitFailed):
    """A row that must not exist does; `table` names its table."""

    def __init__(self, table: str) -> None:
        super().__init__(f"a row of {table} exists already")
        self.table = table


class Missed(CommitFailed):
    """A `Do` did not affect as many rows as it had to."""


class Fenced(CommitFailed):
    """Another process has taken over: this one may not write any more."""


class DatabaseGone(CommitFailed):
    """The database can't be reached; whether the batch was written is not known."""


class Pos(int):
    """The item's own k-th position, counted from 0; the engine makes it absolute."""

    __slots__ = ()


class Insert(NamedTuple):
    """Write a row whose key must not exist: if it does, the item fails with `Conflict`."""

    row: tuple[Any, ...]


class Put(NamedTuple):
    """Write the whole row, in place of the one that has its key."""

    row: tuple[Any, ...]


class Delete(NamedTuple):
    """Remove the row of this key, if it exists; `key` is in the order of the table's key."""

    row_type: type[tuple[Any, ...]]
    key: tuple[Any, ...]


class Do(NamedTuple):
    """Any other writing statement, run between the changes before and after it.

    `sql` is a literal INSERT, UPDATE or DELETE without RETURNING, `?` for a value and `IN (??)` for
    a collection. With `expect` the item fails with `Missed` unless exactly so many rows changed.
    """

    sql: LiteralString
    args: tuple[Any, ...] = ()
    expect: int | None = None


Change = Insert | Put | Delete | Do


class Item(NamedTuple):
    """One caller's changes, and how many positions of the stream they take."""

    changes: Sequence[Change]
    positions: int = 0


class Rows(NamedTuple):
    """Grouped writes of one table; no key occurs twice."""

    table: Table
    deletes: list[tuple[Any, ...]]
    inserts: list[tuple[Any, ...]]
    puts: list[tuple[Any, ...]]


Step = Rows | Do
Groups = dict[Table, dict[Any, tuple[type[Change], tuple[Any, ...]]]]


def first_positions(items: Sequence[Item], start: int) -> list[int]:
    """The first position of each item when the batch begins at `start`."""
    firsts = []
    for item in items:
        firsts.append(start)
        start += item.positions
    return firsts


def plan(items: Sequence[Item], start: int) -> list[Step]:
    """Group a batch whose positions begin at `start` into steps to be run in order.

    Two items that insert the same key raise `Conflict`; text that can't be stored, `Malformed`.
    """
    steps: list[Step] = []
    groups: Groups = {}
    for changes, positions in items:
        for change in changes:
            kind: type[Change] = type(change)
            key: Any
            if isinstance(change, Insert | Put):
                row = change.row
                table = TABLES[type(row)]
                for i in table.text_columns:
                    if row[i] is not None:
                        check_text(row[i])
                for i in table.position_columns:
                    if type(row[i]) is Pos:
                        row = (*row[:i], _place(row[i], start, positions), *row[i + 1 :])
                key = table.key_of(row)
            elif isinstance(change, Delete):
                table = TABLES[change.row_type]
                row = placed(change.key, start, positions)
                key = row if len(row) > 1 else row[0]
            else:
                _flush(groups, steps)
                steps.append(change._replace(args=placed(change.args, start, positions)))
                continue
            group = groups.get(table)
            if group is None:
                group = groups[table] = {}
            before = group.pop(key, None)
            if before is not None:
                if before[0] is Insert and kind is Delete:
                    group[key] = before
                    _flush(groups, steps)
                    group = groups[table] = {}
                else:
                    kind = _merged(before[0], kind, table)
            group[key] = (kind, row)
        start += positions
    _flush(groups, steps)
    return steps


def check_text(text: str) -> None:
    """Raise `Malformed` for text that PostgreSQL refuses, so that both databases do."""
    if "\0" in text:
        raise Malformed("text holds a NUL character")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Malformed("text holds a lone surrogate") from None


def check_texts(values: Iterable[Any]) -> None:
    """`check_text` of every text among the values."""
    for value in values:
        if isinstance(value, str):
            check_text(value)


def placed(values: Sequence[Any], start: int, positions: int) -> tuple[Any, ...]:
    """`values` with every `Pos` made absolute, though still a `Pos`, and every text checked."""
    check_texts(values)
    for value in values:
        if isinstance(value, list | tuple | set | frozenset):
            check_texts(value)
    return tuple(Pos(_place(v, start, positions)) if type(v) is Pos else v for v in values)


def _place(pos: Pos, start: int, positions: int) -> int:
    if not 0 <= pos < positions:
        raise ValueError(f"Pos({int(pos)}) in an item of {positions} positions")
    return start + pos


def _merged(before: type[Change], kind: type[Change], table: Table) -> type[Change]:
    """One change in place of two of the same key."""
    if kind is Insert:
        if before is not Delete:
            raise Conflict(table.name)
        return Put
    return Insert if before is Insert else kind


def _flush(groups: Groups, steps: list[Step]) -> None:
    for table, group in groups.items():
        rows = Rows(table, [], [], [])
        for kind, row in group.values():
            (rows.inserts if kind is Insert else rows.puts if kind is Put else rows.deletes).append(
                row
            )
        steps.append(rows)
    groups.clear()
