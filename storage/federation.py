"""Reading what is known of other servers: look-ups, how they answer, their keys; our own keys."""

from collections import defaultdict
from collections.abc import Collection

from storage.changes import Do
from storage.engine import Database
from storage.schema import DestinationRow, KeyAnswerRow, LookupRow, OwnKeyRow, ServerKeyRow


async def lookups(db: Database, kind: str, names: Collection[str]) -> dict[str, LookupRow]:
    """Answers of one kind by name, also those that are no longer fresh."""
    rows = await db.fetch(
        "SELECT kind, name, answer, expires_ts, keep_until FROM lookups"
        " WHERE kind = ? AND name IN (??)",
        kind,
        names,
    )
    return {row[1]: LookupRow(*row) for row in rows}


def lookups_forgotten(now: int) -> Do:
    """Drop the answers that not even a failure could bring back."""
    return Do("DELETE FROM lookups WHERE keep_until < ?", (now,))


async def destinations(db: Database, servers: Collection[str]) -> dict[str, DestinationRow]:
    """How it goes with other servers, by name; those never spoken to are absent."""
    rows = await db.fetch(
        "SELECT server, last_success_ts, failing_since_ts, failures, pause_ms, retry_ts, error"
        " FROM destinations WHERE server IN (??)",
        servers,
    )
    return {row[0]: DestinationRow(*row) for row in rows}


async def destinations_after(db: Database, server: str, limit: int) -> list[DestinationRow]:
    """Up to `limit` servers behind another, by name, and how it goes with them."""
    rows = await db.scan(
        "SELECT server, last_success_ts, failing_since_ts, failures, pause_ms, retry_ts, error"
        " FROM destinations WHERE server > ? ORDER BY server LIMIT ?",
        server,
        limit,
    )
    return [DestinationRow(*row) for row in rows]


async def blocked_servers(db: Database) -> set[str]:
    """The servers that an operator has blocked."""
    return {server for (server,) in await db.scan("SELECT server FROM blocked_servers")}


def strangers_forgotten(before: int) -> Do:
    """Drop the servers that never answered and were last tried before that time (ms)."""
    return Do("DELETE FROM destinations WHERE last_success_ts IS NULL AND retry_ts < ?", (before,))


async def server_keys(db: Database, servers: Collection[str]) -> dict[str, dict[str, ServerKeyRow]]:
    """By server, its keys by their id."""
    rows = await db.fetch(
        "SELECT server, key_id, public_key, valid_until_ts, expired_ts, digest FROM server_keys"
        " WHERE server IN (??)",
        servers,
    )
    found: dict[str, dict[str, ServerKeyRow]] = defaultdict(dict)
    for row in rows:
        found[row[0]][row[1]] = ServerKeyRow(*row)
    return dict(found)


async def key_answers(db: Database, servers: Collection[str]) -> dict[str, list[KeyAnswerRow]]:
    """By server, the answers that its keys came in, newest first."""
    rows = await db.fetch(
        "SELECT server, digest, json, valid_until_ts, fetched_ts FROM key_answers"
        " WHERE server IN (??) ORDER BY server, fetched_ts DESC, digest",
        servers,
    )
    found: dict[str, list[KeyAnswerRow]] = defaultdict(list)
    for row in rows:
        found[row[0]].append(KeyAnswerRow(*row))
    return dict(found)


def unused_answers_forgotten(server: str) -> Do:
    """Drop a server's answers that no key stands on any more."""
    return Do(
        "DELETE FROM key_answers WHERE server = ? AND digest NOT IN"
        " (SELECT digest FROM server_keys WHERE server = ?)",
        (server, server),
    )


async def own_keys(db: Database) -> dict[str, OwnKeyRow]:
    """Every key that this server has signed with, by id."""
    rows = await db.scan("SELECT key_id, public_key, expired_ts FROM own_keys ORDER BY key_id")
    return {row[0]: OwnKeyRow(*row) for row in rows}
