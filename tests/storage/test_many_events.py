"""A database of ten million events starts as fast as an empty one: a start reads no whole table.

What a start reads: the version of the schema, the stream's row, the last thousand timelines, the
numbers of some twenty names and keys, due jobs, who was erased, and who was online when it stopped.
"""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import apsw
import psycopg
import pytest

from storage.beside import read_beside
from storage.engine import DatabaseSettings
from storage.migrations import statements_from, version_table
from storage.size import Sizes, sizes
from tests.databases import PostgresServer
from tests.processes import OurServer, postgresql_url

EVENTS = int(os.environ.get("HOMESERVER_TEST_EVENTS", "10000000"))
MOST_SECONDS = 3.0
_ROOMS = 1_000
_SPREAD = 7_919

_EVENTS = """
INSERT INTO events (event_nid, event_id, room_nid, pos, depth, type_nid, key_nid, sender_nid,
 origin_ts, snap_nid, flags, prevs, auths)
SELECT n, {event_id}, 1 + n % {rooms}, n, 1 + n / {rooms}, 1,
 CASE WHEN n % 20 = 0 THEN 1 + n % {spread} END, 2 + n % {spread}, 1700000000000 + n, 1, 16,
 {blob}, {blob} FROM {numbers}
"""
_JSON = "INSERT INTO event_json (event_nid, json) SELECT n, {json} FROM {numbers}"
_CHILDREN = "INSERT INTO event_children (prev_nid, event_nid) SELECT n, n + 1 FROM {numbers}"
_CHANGES = """
INSERT INTO state_changes (room_nid, pos, key_nid, old_nid, new_nid)
SELECT 1 + n % {rooms}, n, 1 + n % {spread}, NULL, n FROM {numbers} WHERE n % 20 = 0
"""
_STREAM = "UPDATE stream SET pos = {events} WHERE one = 1"


def fill(run: Callable[[str], object], **parts: str) -> None:
    """Put the events into the tables; indexes come afterwards, sorted at once."""
    for text in (_EVENTS, _JSON, _CHILDREN, _CHANGES, _STREAM):
        run(text.format(events=str(EVENTS), rooms=str(_ROOMS), spread=str(_SPREAD), **parts))


def fill_sqlite(path: Path) -> None:
    path.parent.mkdir(parents=True)
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "off")
    connection.pragma("synchronous", "off")
    connection.pragma("cache_size", -400_000)
    statements = [version_table("sqlite"), *statements_from(0, "sqlite")]
    late = [text for text in statements if "INDEX events_" in text or "INDEX state_ch" in text]
    connection.execute("BEGIN")
    for text in statements:
        if text not in late:
            connection.execute(text)
    fill(
        connection.execute,
        event_id="'$' || lower(hex(randomblob(16))) || printf('%011d', n)",
        blob="x'a0c21e'",
        json="randomblob(100)",
        numbers="(WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers"
        f" WHERE n < {EVENTS}) SELECT n FROM numbers)",
    )
    for text in late:
        connection.execute(text)
    connection.execute("COMMIT")
    connection.close()


def fill_postgresql(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:

        def run(text: str) -> None:
            connection.execute(text.encode())

        statements = [version_table("postgresql"), *statements_from(0, "postgresql")]
        late = [text for text in statements if "INDEX events_" in text or "INDEX state_ch" in text]
        for text in statements:
            if text not in late:
                run(text)
        fill(
            run,
            event_id="'$' || md5(n::text) || lpad(n::text, 11, '0')",
            blob="'\\xa0c21e'",
            json="decode(md5(n::text) || md5((n + 1)::text), 'hex')",
            numbers=f"generate_series(1, {EVENTS}) AS n",
        )
        for text in late:
            run(text)


async def measured(settings: DatabaseSettings) -> Sizes:
    async with read_beside(settings) as reader:
        return await sizes(reader)


@pytest.mark.long
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_ten_million_events_start_in_three_seconds(
    tmp_path: Path, kind: str, postgres: PostgresServer
) -> None:
    dsn = None
    if kind == "sqlite":
        fill_sqlite(tmp_path / "server" / "homeserver.db")
        server = OurServer(tmp_path / "server")
    else:
        dsn = postgres.blank_database()
        fill_postgresql(dsn)
        server = OurServer(tmp_path / "server", postgresql_url(dsn))
    try:
        for _ in range(2):
            began = time.monotonic()
            server.start()
            seconds = time.monotonic() - began
            print(f"{kind}: started with {EVENTS} events in {seconds:.2f} s")
            assert seconds < MOST_SECONDS
            server.stop()
        began = time.monotonic()
        path = tmp_path / "server" / "homeserver.db"
        settings = DatabaseSettings(dsn=dsn, path=None if dsn else path)
        found = asyncio.run(measured(settings))
        print(f"{kind}: {found.total >> 20} MiB explained in {time.monotonic() - began:.1f} s")
        assert sum(found.kinds.values()) == found.total
        assert (
            sum(room.total for room in found.rooms) + sum(found.elsewhere.values()) == found.total
        )
    finally:
        server.kill()
        if dsn is not None:
            postgres.drop(dsn)
