"""`python -m bench.big`: a database of five million messages, a million of them in one room.

Owns the filling of such a database and what is asked of it over HTTP: searches for words of every
frequency, and pages of the big room's history at any depth. The first messages are sent by clients;
all others are rows like theirs, with words of their own, put into the tables while the server is
down. Waiting is told (p50, p99, the longest) and CPU time; the answers are proved.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import apsw
import click
import psycopg
import uvloop

from bench.client import V3, Client, Json, segment
from bench.meter import Measurement, Meter, timed
from bench.runs import placed
from bench.scenarios import FULL, Bench, require
from tests.processes import OurServer, running

ROOMS = 50
EACH = 10
"""Messages that clients send into each room before the database is filled."""
ROUNDS = 40
PAGE = 100
PAGES = 200
_COMMON = {
    "a tenth": ("tena", 10),
    "1 %": ("huna", 100),
    "1 in 1,000": ("thoa", 1_000),
    "1 in 10,000": ("mira", 10_000),
    "1 in 100,000": ("laka", 100_000),
}
"""Words, followed by a number below the second: how many messages have each of them."""

_TEMPLATES = """
CREATE TEMPORARY TABLE templates AS
SELECT row_number() OVER (ORDER BY event_nid) - 1 AS k, events.*, event_json.json AS json
FROM events JOIN event_json USING (event_nid) JOIN names ON names.name_nid = events.type_nid
WHERE names.name = 'm.room.message'
"""
_TEMPLATES_BY_K = "CREATE UNIQUE INDEX templates_by_k ON templates (k)"
_CHOSEN = f"""CASE WHEN n % 5 = 0 THEN (n / 5) % {EACH}
 ELSE {EACH} + n % {(ROOMS - 1) * EACH} END"""
_FILL = (
    f"""
INSERT INTO events (event_nid, event_id, room_nid, pos, depth, type_nid, key_nid, sender_nid,
 origin_ts, snap_nid, flags, prevs, auths)
SELECT {{nid}} + n, {{event_id}}, room_nid, {{pos}} + n, depth, type_nid, key_nid, sender_nid,
 origin_ts + n, snap_nid, flags, prevs, auths
FROM {{numbers}} JOIN templates ON k = {_CHOSEN}
""",
    f"""
INSERT INTO event_json (event_nid, json)
SELECT {{nid}} + n, json FROM {{numbers}} JOIN templates ON k = {_CHOSEN}
""",
    f"""
INSERT INTO message_index (rowid, tokens)
SELECT {{nid}} + n, 'r' || room_nid || ' s' || sender_nid || ' kbody wall'
 || {" || ".join(f"' w{word}' || (n % {number})" for word, number in _COMMON.values())}
 || ' wown' || n
FROM {{numbers}} JOIN templates ON k = {_CHOSEN}
""",
    "UPDATE stream SET pos = pos + {events} WHERE one = 1",
    "UPDATE numbers SET next = next + {events} + 1 WHERE counter = 'event'",
)
_MOVED = (
    "INSERT INTO message_index (rowid, tokens) SELECT event_nid, tokens FROM waiting_words",
    "DELETE FROM waiting_words",
)
_FREE = "SELECT (SELECT next FROM numbers WHERE counter = 'event'), (SELECT pos FROM stream)"


def _fill(
    execute: Callable[[str], list[tuple[int, ...]]], events: int, event_id: str, numbers: str
) -> None:
    """Put so many messages behind those that are there."""
    for text in (*_MOVED, _TEMPLATES, _TEMPLATES_BY_K):
        execute(text)
    require(execute("SELECT count(*) FROM templates") == [(ROOMS * EACH,)], "messages are missing")
    ((nid, pos),) = execute(_FREE)
    for text in _FILL:
        execute(
            text.format(
                nid=nid, pos=pos, events=events, event_id=event_id, numbers=numbers.format(events)
            )
        )


def _fill_sqlite(path: Path, events: int) -> None:
    connection = apsw.Connection(str(path))
    connection.pragma("synchronous", "off")
    connection.pragma("cache_size", -800_000)
    connection.execute("BEGIN")
    _fill(
        lambda text: list(connection.execute(text)),
        events,
        "'$' || printf('%043d', n)",
        "(WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers"
        " WHERE n < {}) SELECT n FROM numbers)",
    )
    connection.execute("COMMIT")
    connection.close()


def _fill_postgresql(dsn: str, events: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:

        def execute(text: str) -> list[tuple[int, ...]]:
            cursor = connection.execute(text.encode())
            return cursor.fetchall() if cursor.description is not None else []

        execute("SET synchronous_commit = off")
        execute("SET maintenance_work_mem = '1GB'")
        execute("DROP INDEX message_index_by_tokens")
        _fill(
            execute,
            events,
            "'$' || lpad(n::text, 43, '0')",
            "generate_series(1, {}) AS n",
        )
        execute(
            "CREATE INDEX message_index_by_tokens ON message_index"
            " USING gin (to_tsvector('simple', tokens))"
        )
        execute("VACUUM ANALYZE")


class _People:
    """Two users who are in all rooms; `rooms[0]` is the big one."""

    def __init__(self, owner: Client, reader: Client, rooms: list[str]) -> None:
        self.owner = owner
        self.reader = reader
        self.rooms = rooms

    async def found(self, term: str, **event_filter: object) -> Json:
        """The answer to a search."""
        wanted = {
            "search_term": term,
            "order_by": "recent",
            "filter": {"limit": 10, **event_filter},
        }
        body = {"search_categories": {"room_events": wanted}}
        answer: Json = (await self.reader.call("POST", f"{V3}/search", body))["search_categories"]
        room_events: Json = answer["room_events"]
        return room_events

    async def one_of(self, word: str, number: int, at: int) -> Json:
        """The answer to a search for a word that one in so many messages has."""
        return await self.found(f"{word}{at % number}")


async def _people(bench: Bench) -> _People:
    owner, reader = await bench.users(2)
    rooms = [await bench.room(owner, [reader]) for _ in range(ROOMS)]
    for room_id in rooms:
        for number in range(EACH):
            await owner.say(room_id, f"message {number} of those of which all others are copies")
    return _People(owner, reader, rooms)


async def _searches(meter: Meter, people: _People, events: int) -> None:
    event_ids = [await people.owner.say(people.rooms[at], "the heliotrope") for at in range(20)]
    asked: dict[str, Callable[[int], Awaitable[Json]]] = {
        "20 messages": lambda _: people.found("heliotrope", limit=50),
        "no message": lambda at: people.found(f"heliotropium{at}"),
        "one message": lambda at: people.found(f"own{events - at}"),
        "every message": lambda _: people.found("all"),
        "every message, in one room": lambda at: people.found(
            "all", rooms=[people.rooms[at % ROOMS]]
        ),
        "1 in 1,000, of somebody who wrote nothing": lambda at: people.found(
            f"thoa{at}", senders=[people.reader.user_id]
        ),
        "two words, each in a tenth and in 1 %": lambda at: people.found(f"tena1 huna{at}1"),
    }
    for name, (word, number) in _COMMON.items():
        asked[name] = partial(people.one_of, word, number)
    for name, ask in asked.items():
        await ask(ROUNDS)
        async with meter.measure() as cost:
            answers = [await timed(cost, ask(at)) for at in range(ROUNDS)]
            cost.operations = ROUNDS
        _tell(f"search: {name}", cost)
        counts = {len(answer["results"]) for answer in answers}
        if name == "20 messages":
            ids = [one["result"]["event_id"] for one in answers[0]["results"]]
            require(ids == event_ids[::-1], "the newest messages are not found")
        elif name in ("no message", "1 in 1,000, of somebody who wrote nothing"):
            require(counts == {0}, f"{name}: found is {counts}")
        elif name == "one message":
            require(counts == {1}, f"{name}: found is {counts}")
        elif not name.startswith("two"):
            require(counts == {10}, f"{name}: found is {counts}")


async def _deep(meter: Meter, people: _People) -> None:
    room = f"{V3}/rooms/{segment(people.rooms[0])}"
    newest = (await people.reader.messages(people.rooms[0], limit=PAGE))["chunk"]
    first = (await people.reader.messages(people.rooms[0], limit=PAGE, direction="f"))["chunk"]
    begin, end = first[0]["origin_server_ts"], newest[0]["origin_server_ts"]
    chance = random.Random(1)
    tokens = []
    for _ in range(PAGES):
        query: dict[str, str | int] = {"ts": chance.randrange(begin, end), "dir": "f"}
        where = await people.reader.call(
            "GET",
            f"/_matrix/client/v1/rooms/{segment(people.rooms[0])}/timestamp_to_event",
            query=query,
        )
        target = f"{room}/context/{segment(where['event_id'])}"
        tokens.append((await people.reader.call("GET", target, query={"limit": 0}))["end"])
    async with meter.measure() as cost:
        pages = [
            await timed(cost, people.reader.messages(people.rooms[0], start=token, limit=PAGE))
            for token in tokens
        ]
        cost.operations = len(pages)
    _tell(f"/messages: {PAGE} events at any depth of the big room", cost)
    for page in pages:
        ids = {event["event_id"] for event in page["chunk"]}
        require(len(ids) == PAGE or "end" not in page, "a page is not full")


def _tell(name: str, cost: Measurement) -> None:
    click.echo(
        f"{name}: p50 {cost.wait_ms(0.5):.1f}, p99 {cost.wait_ms(0.99):.1f},"
        f" longest {1_000 * max(cost.waits):.1f} ms; CPU {cost.cpu_ms:.1f} ms"
        f" (load {cost.load:.1f}, others' cores {cost.foreign_cores:.1f})"
    )


async def _measured(database: str, events: int) -> None:
    with placed(database) as (folder, url, pid):
        server = OurServer(folder, url)
        with running(server):
            bench = Bench(server, Meter(server.pid, pid), FULL)
            people = await _people(bench)
        began = time.monotonic()
        if url is None:
            _fill_sqlite(folder / "homeserver.db", events)
        else:
            _fill_postgresql(url, events)
        click.echo(f"{database}: {events} messages in {time.monotonic() - began:.0f} s", err=True)
        server.start()
        try:
            for client in (people.owner, people.reader):
                client.close()
            meter = Meter(server.pid, pid)
            await _searches(meter, people, events)
            await _deep(meter, people)
        finally:
            server.stop()


@click.command()
@click.option(
    "--database", type=click.Choice(["sqlite", "postgresql"]), default="sqlite", show_default=True
)
@click.option("--events", default=5_000_000, show_default=True, help="Messages in the database.")
def main(database: str, events: int) -> None:
    """Measure searches and pages of history in a database of many messages."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_measured(database, events))


if __name__ == "__main__":
    main()
