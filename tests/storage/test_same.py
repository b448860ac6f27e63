"""Whatever is committed, both databases hold the same and refuse the same."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.changes import Change, CommitFailed, Delete, Do, Insert, Item, Pos, Put
from storage.engine import Database, DatabaseSettings, open_database
from storage.schema import EventChildRow, MembershipLogRow, MetaRow, UserRow
from tests.databases import PostgresServer

few = st.integers(1, 3)
texts = st.sampled_from(["", "a", "é", "\U0001f600", "a\0", "z" * 300])
rows = st.one_of(
    st.builds(MetaRow, st.sampled_from("abc"), texts),
    st.builds(UserRow, few, st.sampled_from("xyz"), st.none() | texts, few, few),
    st.builds(EventChildRow, few, few),
    st.builds(MembershipLogRow, few, few, st.integers(-3, -1), few, few),
    st.builds(MembershipLogRow, few, few, st.builds(Pos, st.integers(0, 1)), few, few),
)
changes: st.SearchStrategy[Change] = st.one_of(
    st.builds(Insert, rows),
    st.builds(Put, rows),
    st.builds(Delete, st.just(MetaRow), st.tuples(st.sampled_from("abc"))),
    st.builds(Delete, st.just(UserRow), st.tuples(few)),
    st.builds(Delete, st.just(MembershipLogRow), st.tuples(few, few, st.integers(-3, -1))),
    st.builds(
        Do,
        st.just("UPDATE users SET flags = flags + ? WHERE user_nid IN (??)"),
        st.tuples(few, st.lists(few, max_size=3)),
        st.none() | st.integers(0, 2),
    ),
    st.builds(
        Do,
        st.just("UPDATE membership_log SET event_nid = ? WHERE user_nid = ?"),
        st.tuples(st.builds(Pos, st.integers(0, 1)), few),
        st.none() | st.integers(0, 2),
    ),
)
items = st.builds(Item, st.lists(changes, max_size=4), st.just(2))
batches = st.lists(st.lists(items, min_size=1, max_size=3), min_size=1, max_size=4)


class Pair:
    """The two databases, and the loop that they live on."""

    def __init__(self, path: Path, dsn: str) -> None:
        self.runner = asyncio.Runner()
        self.databases = [
            self.runner.run(open_database(DatabaseSettings(path=path, durable=False))),
            self.runner.run(open_database(DatabaseSettings(dsn=dsn, durable=False))),
        ]

    def close(self) -> None:
        for database in self.databases:
            self.runner.run(database.close())
        self.runner.close()


@pytest.fixture(scope="module")
def pair(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("same") / "test.db", postgres.new_database())
    yield made
    made.close()


async def run(database: Database, work: list[list[Item]]) -> list[object]:
    """The outcome of every batch with what the tables hold after it."""
    await database.commit(
        [
            Item(
                [
                    Do("DELETE FROM meta WHERE key IN (??)", (["a", "b", "c"],)),
                    Do("DELETE FROM users"),
                    Do("DELETE FROM event_children"),
                    Do("DELETE FROM membership_log"),
                ]
            )
        ]
    )
    start = await database.position()
    seen: list[object] = []
    for batch in work:
        before = await contents(database, start)
        try:
            seen.append([first - start for first in await database.commit(batch)])
        except CommitFailed as error:
            seen.append(type(error))
            assert await contents(database, start) == before, "a refused batch left something"
        seen.append(await contents(database, start))
    return seen


async def contents(database: Database, start: int) -> list[object]:
    found: list[object] = [await database.position() - start]
    found.append(sorted(await database.scan("SELECT * FROM meta WHERE key <> 'schema_version'")))
    found.append(sorted(await database.scan("SELECT * FROM users"), key=repr))
    found.append(sorted(await database.scan("SELECT * FROM event_children")))
    log = await database.scan("SELECT * FROM membership_log")
    found.append(
        sorted(
            (user, room, pos - start if pos > 0 else pos, kind, nid - start if nid > 3 else nid)
            for user, room, pos, kind, nid in log
        )
    )
    return found


@given(work=batches)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_both_databases_do_the_same(pair: Pair, work: list[list[Item]]) -> None:
    sqlite, postgresql = (pair.runner.run(run(database, work)) for database in pair.databases)
    assert sqlite == postgresql
