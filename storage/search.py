"""Looking up words: the one place, beside the engines, where the two databases differ.

SQLite keeps the words of `message_index` in an FTS5 table, PostgreSQL in a table with a GIN index
over them. Words are ASCII letters and digits (`homeserver.rooms.words`), among them marks for what
a message is part of; a query is a conjunction of groups, each a list of words of which one must
occur. A row is written in the transaction of what it comes from, into `waiting_words`; there it is
looked at one by one until many move into the index together. Both are asked; whoever removes words
removes them from both, in the order in which they are moved, so that none can slip through between.
"""

from collections.abc import Collection, Sequence
from typing import Final, LiteralString, NamedTuple

from storage.changes import Change, Delete, Do, Insert
from storage.engine import Database
from storage.schema import Dialect, MessageIndexRow, WaitingWordsRow

_MOST_WAITING = 5_000

FOUND: Final[dict[Dialect, LiteralString]] = {
    "sqlite": (
        "SELECT rowid FROM message_index WHERE message_index MATCH ? AND rowid < ?"
        " ORDER BY rowid DESC LIMIT ?"
    ),
    "postgresql": (
        "SELECT rowid FROM message_index"
        " WHERE to_tsvector('simple', tokens) @@ CAST(? AS tsquery) AND rowid < ?"
        " ORDER BY rowid DESC LIMIT ?"
    ),
}


class Words(NamedTuple):
    """One of these must occur: whole words, or with `prefix` words that begin so."""

    words: Sequence[str]
    prefix: bool = False


async def found(db: Database, query: Collection[Words], before: int, limit: int) -> list[int]:
    """At most `limit` numbers below `before` of events that have the words, highest first."""
    # In this order: what moves in between is met twice, not missed.
    waiting = await db.fetch(
        "SELECT event_nid, tokens FROM waiting_words WHERE event_nid < ?"
        " ORDER BY event_nid DESC LIMIT ?",
        before,
        _MOST_WAITING,
    )
    rows = await db.scan(FOUND[db.dialect], _text(db.dialect, query), before, limit)
    nids = {event_nid for (event_nid,) in rows}
    nids.update(event_nid for event_nid, tokens in waiting if _holds(tokens.split(), query))
    return sorted(nids, reverse=True)[:limit]


async def waiting_words(db: Database, limit: int) -> list[WaitingWordsRow]:
    """At most so many rows that are not in the index yet, oldest first."""
    rows = await db.fetch(
        "SELECT event_nid, tokens FROM waiting_words ORDER BY event_nid LIMIT ?", limit
    )
    return [WaitingWordsRow(*row) for row in rows]


def moved(rows: Sequence[WaitingWordsRow]) -> list[Change]:
    """The rows move into the index, all or, if any has gone meanwhile, none (`Missed`)."""
    gone = Do(
        "DELETE FROM waiting_words WHERE event_nid IN (??)",
        ([row.event_nid for row in rows],),
        expect=len(rows),
    )
    return [gone, *(Insert(MessageIndexRow(row.event_nid, row.tokens)) for row in rows)]


def forgotten(event_nid: int) -> list[Change]:
    """The words of an event are gone, wherever they are."""
    return [
        Delete(WaitingWordsRow, (event_nid,)),
        Do("DELETE FROM message_index WHERE rowid = ?", (event_nid,)),
    ]


def _holds(tokens: Collection[str], query: Collection[Words]) -> bool:
    return all(
        any(
            any(token.startswith(word) for token in tokens) if group.prefix else word in tokens
            for word in group.words
        )
        for group in query
    )


def _text(dialect: Dialect, query: Collection[Words]) -> str:
    either, both, mark = (" OR ", " AND ", "*") if dialect == "sqlite" else (" | ", " & ", ":*")
    return both.join(
        "(" + either.join(word + (mark if group.prefix else "") for word in group.words) + ")"
        for group in query
    )
