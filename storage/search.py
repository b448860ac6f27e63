"""Looking up words: the one place, beside the engines, where the two databases differ.

SQLite keeps the words of `message_index` in an FTS5 table, PostgreSQL in a table with a GIN index
over them. Words are ASCII letters and digits (`homeserver.rooms.words`), among them marks for what
a message is part of; a query is a conjunction of groups, each a list of words of which one must
occur. A row is written and removed in the transaction of what it comes from, as any other.
"""

from collections.abc import Collection, Sequence
from typing import Final, LiteralString, NamedTuple

from storage.engine import Database
from storage.schema import Dialect

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
    rows = await db.scan(FOUND[db.dialect], _text(db.dialect, query), before, limit)
    return [event_nid for (event_nid,) in rows]


def _text(dialect: Dialect, query: Collection[Words]) -> str:
    either, both, mark = (" OR ", " AND ", "*") if dialect == "sqlite" else (" | ", " & ", ":*")
    return both.join(
        "(" + either.join(word + (mark if group.prefix else "") for word in group.words) + ")"
        for group in query
    )
