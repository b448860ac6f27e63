"""The commit queue: order, failures, cancellation, the end; with faults put in."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homeserver.errors import MatrixError
from homeserver.runtime.clock import FakeClock
from homeserver.streams.commit import CommitQueue, Lane, Superseded
from storage.changes import Change, Conflict, DatabaseGone, Do, Insert, Item, Missed
from storage.engine import Database, DatabaseSettings, open_database
from storage.schema import MetaRow


class NoMetrics:
    def committed(self, items: int, seconds: float) -> None: ...


class Watched:
    """A commit queue and what it told of itself."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.told: list[object] = []
        self.batches: list[int] = []
        self.queue = CommitQueue(
            database,
            FakeClock(),
            NoMetrics(),
            lambda pos: self.told.append(("published", pos)),
            lambda pos: self.told.append(("lost", pos)),
        )
        self._commit = database.commit
        self.before: Callable[[Sequence[Item]], object] = lambda items: None
        database.commit = self._watched  # type: ignore[method-assign]

    async def _watched(self, items: Sequence[Item]) -> list[int]:
        self.batches.append(len(items))
        self.before(items)
        return await self._commit(items)

    async def stored(self) -> set[str]:
        rows = await self.database.fetch("SELECT key FROM meta WHERE value = ?", "test")
        return {key for (key,) in rows}


@pytest.fixture
async def watched(database: Database) -> AsyncIterator[Watched]:
    await database.start_timeline()
    made = Watched(database)
    made.queue.start()
    yield made
    await made.queue.close()


def row(key: str) -> list[Change]:
    return [Insert(MetaRow(key, "test"))]


async def outcome(future: "asyncio.Future[int]") -> object:
    """The position, or the kind of the failure."""
    try:
        return await future
    except (Conflict, Missed, Superseded) as error:
        return type(error)


async def test_what_waits_becomes_one_transaction(watched: Watched) -> None:
    start = await watched.database.position()
    futures = [watched.queue.submit(row(f"k{n}"), n) for n in range(5)]
    assert await asyncio.gather(*futures) == [start + n for n in (1, 1, 2, 4, 7)]
    assert watched.batches == [5]
    assert await watched.database.position() == start + 10
    assert watched.told == [("published", start + 10)]


async def test_a_poisoned_item_hurts_only_its_own_caller(watched: Watched) -> None:
    await watched.queue.commit(row("taken"))
    missing: list[Change] = [Do("UPDATE meta SET value = ? WHERE key = ?", ("x", "none"), expect=1)]
    futures = [
        watched.queue.submit(row("a"), 1),
        watched.queue.submit(row("taken"), 1),
        watched.queue.submit(row("b"), 1),
        watched.queue.submit(missing, 1),
        watched.queue.submit(row("c"), 1),
    ]
    first, second, third, fourth, fifth = [await outcome(future) for future in futures]
    assert (second, fourth) == (Conflict, Missed)
    assert isinstance(first, int)
    assert (third, fifth) == (first + 1, first + 2)
    assert await watched.stored() == {"taken", "a", "b", "c"}


async def test_what_stands_on_a_failed_item_is_refused(watched: Watched) -> None:
    await watched.queue.commit(row("taken"))
    lane, other = Lane(), Lane()
    futures = [
        watched.queue.submit(row("a"), 1, lane=lane),
        watched.queue.submit(row("taken"), 1, lane=lane),
        watched.queue.submit(row("b"), 1, lane=lane),
        watched.queue.submit(row("c"), 1, lane=other),
        watched.queue.submit(row("d"), 1, lane=lane),
    ]
    outcomes = [await outcome(future) for future in futures]
    assert outcomes[1:3] == [Conflict, Superseded]
    assert outcomes[4] is Superseded
    assert await watched.stored() == {"taken", "a", "c"}
    assert (lane.generation, other.generation) == (1, 0)
    assert isinstance(await outcome(watched.queue.submit(row("e"), 1, lane=lane)), int)


async def test_publication_follows_the_stream_and_the_commit(watched: Watched) -> None:
    start = await watched.database.position()
    futures: list[asyncio.Future[int]] = []

    def publisher(name: str) -> Callable[[int], None]:
        def publish(first: int) -> None:
            assert watched.batches, "published before the commit"
            assert not any(future.done() for future in futures)
            watched.told.append((name, first))

        return publish

    for number in range(4):
        name = f"p{number}"
        futures.append(watched.queue.submit(row(name), 2, publisher(name)))
    assert watched.told == []
    await asyncio.gather(*futures)
    assert watched.told == [
        *((f"p{number}", start + 1 + 2 * number) for number in range(4)),
        ("published", start + 8),
    ]


async def test_a_failed_item_is_not_published(watched: Watched) -> None:
    await watched.queue.commit(row("taken"))
    published: list[int] = []
    failing = watched.queue.submit(row("taken"), 1, published.append)
    working = watched.queue.submit(row("a"), 1, published.append)
    assert await outcome(failing) is Conflict
    assert published == [await working]


async def test_a_publisher_that_raises_fails_nobody(watched: Watched) -> None:
    def broken(first: int) -> None:
        raise ZeroDivisionError

    futures = [watched.queue.submit(row("a"), 1, broken), watched.queue.submit(row("b"), 1)]
    first, second = await asyncio.gather(*futures)
    assert watched.told == [("lost", first), ("published", second)]


async def test_a_cancelled_caller_loses_nothing(watched: Watched) -> None:
    published: list[int] = []
    caller = asyncio.create_task(watched.queue.commit(row("a"), 1, published.append))
    await asyncio.sleep(0)
    caller.cancel()
    dropped = watched.queue.submit(row("b"), 1, published.append)
    dropped.cancel()
    last = await watched.queue.commit(row("c"), 1)
    assert await watched.stored() == {"a", "b", "c"}
    assert published == [last - 2, last - 1]


async def test_a_writer_that_breaks_answers_its_callers_and_goes_on(watched: Watched) -> None:
    def break_once(items: Sequence[Item]) -> None:
        watched.before = lambda items: None
        raise ZeroDivisionError

    watched.before = break_once
    lane = Lane()
    futures = [watched.queue.submit(row("a"), 1, lane=lane), watched.queue.submit(row("b"), 1)]
    for future in futures:
        with pytest.raises(MatrixError) as error:
            await future
        assert error.value.status == 500
    assert lane.generation == 1
    await watched.queue.commit(row("c"), 1)
    assert await watched.stored() == {"c"}


async def test_a_database_that_is_gone_is_said_to_be(watched: Watched) -> None:
    def gone(items: Sequence[Item]) -> None:
        watched.before = lambda items: None
        raise DatabaseGone

    watched.before = gone
    lane = Lane()
    with pytest.raises(MatrixError) as error:
        await watched.queue.submit(row("a"), 1, lane=lane)
    assert (error.value.status, lane.generation) == (503, 1)
    await watched.queue.commit(row("a"), 1)


async def test_closing_commits_what_waits_and_refuses_what_comes(watched: Watched) -> None:
    futures = [watched.queue.submit(row(f"k{n}"), 1) for n in range(600)]
    await watched.queue.close()
    assert all(future.done() for future in futures)
    positions = [future.result() for future in futures]
    assert positions == list(range(positions[0], positions[0] + 600))
    with pytest.raises(MatrixError) as error:
        watched.queue.submit(row("late"))
    assert error.value.status == 503
    assert len(await watched.stored()) == 600


class Watcher:
    """Runs plans on one database, each with keys of its own."""

    def __init__(self, watched: Watched, runner: asyncio.Runner) -> None:
        self._watched = watched
        self._runner = runner
        self._runs = 0

    def run(self, plan: list[tuple[int, int, int]]) -> None:
        self._runs += 1
        self._runner.run(self._check(plan, f"run{self._runs}-"))

    async def _check(self, plan: list[tuple[int, int, int]], prefix: str) -> None:
        lanes = [Lane() for _ in range(3)]
        position = await self._watched.database.position()
        futures = [
            self._watched.queue.submit(row(f"{prefix}{key}"), positions, lane=lanes[lane])
            for lane, key, positions in plan
        ]
        outcomes = [await outcome(future) for future in futures]
        taken: set[int] = set()
        failed: set[int] = set()
        for (lane, key, positions), got in zip(plan, outcomes, strict=True):
            if lane in failed:
                assert got is Superseded
            elif key in taken:
                assert got is Conflict
                failed.add(lane)
            else:
                if positions:
                    assert got == position + 1
                position += positions
                taken.add(key)
        assert await self._watched.database.position() == position
        stored = {key for key in await self._watched.stored() if key.startswith(prefix)}
        assert stored == {f"{prefix}{key}" for key in taken}


@pytest.fixture
def watched_on(database_settings: DatabaseSettings) -> Iterator[Watcher]:
    with asyncio.Runner() as runner:

        async def begin() -> Watched:
            database = await open_database(database_settings)
            await database.start_timeline()
            begun = Watched(database)
            begun.queue.start()
            return begun

        async def end() -> None:
            await made.queue.close()
            await made.database.close()

        made = runner.run(begin())
        yield Watcher(made, runner)
        runner.run(end())


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    plan=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 2)), max_size=12)
)
def test_any_mix_of_items_ends_as_one_by_one(
    watched_on: Watcher, plan: list[tuple[int, int, int]]
) -> None:
    """Items (lane, key, positions): what is stored and answered is what a queue of one gives."""
    watched_on.run(plan)
