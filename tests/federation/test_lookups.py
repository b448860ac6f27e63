"""What was found out is remembered: for how long, by whom it is asked, and what failures do."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from federation.lookups import JITTER, STALE_MS, Found, Kind, LookupFailed, Lookups
from homeserver.runtime.clock import FakeClock
from homeserver.streams.commit import CommitQueue
from storage import federation as store
from storage.engine import Database
from tests.users.conftest import NoMetrics

MINUTE, HOUR = 60.0, 3_600.0


class Source:
    """What is asked; `answer` is given, or raised when it is an exception."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Found | Exception = Found(["1.2.3.4"], HOUR)
        self.gate: asyncio.Event | None = None

    async def ask(self, name: str) -> Found:
        self.asked.append(name)
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def commits(database: Database, clock: FakeClock) -> AsyncIterator[CommitQueue]:
    queue = CommitQueue(database, clock, NoMetrics(), lambda pos: None, lambda pos: None)
    queue.start()
    yield queue
    await queue.close()


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def lookups(database: Database, commits: CommitQueue, clock: FakeClock, source: Source) -> Lookups:
    return made(database, commits, clock, source)


def made(database: Database, commits: CommitQueue, clock: FakeClock, source: Source) -> Lookups:
    lookups = Lookups(database, commits, clock)
    lookups.handle("address", Kind(source.ask, 30, 24 * HOUR, 60, HOUR))
    return lookups


async def get(lookups: Lookups, name: str = "a.example") -> Any:
    return await lookups.get("address", name)


async def test_an_answer_counts_as_long_as_it_says(
    lookups: Lookups, source: Source, clock: FakeClock
) -> None:
    assert await get(lookups) == ["1.2.3.4"]
    await clock.advance(HOUR * (1 - JITTER) - 1)
    assert await get(lookups) == ["1.2.3.4"]
    assert len(source.asked) == 1
    await clock.advance(HOUR * JITTER + 1)
    await get(lookups)
    assert len(source.asked) == 2


async def test_ends_are_spread_by_chance(
    database: Database, commits: CommitQueue, lookups: Lookups
) -> None:
    names = [f"{number}.example" for number in range(20)]
    for name in names:
        await get(lookups, name)
    await commits.commit([])
    rows = await store.lookups(database, "address", names)
    assert len({row.expires_ts for row in rows.values()}) > 10


@pytest.mark.parametrize(("said", "kept"), [(0.0, 30.0), (10.0**9, 24 * HOUR)])
async def test_lives_have_bounds(
    lookups: Lookups, source: Source, clock: FakeClock, said: float, kept: float
) -> None:
    source.answer = Found([], said)
    await get(lookups)
    await clock.advance(kept * (1 - JITTER) - 1)
    await get(lookups)
    assert len(source.asked) == 1
    await clock.advance(kept * JITTER + 1)
    await get(lookups)
    assert len(source.asked) == 2


async def test_whoever_asks_meanwhile_waits_for_the_same_look_up(
    lookups: Lookups, source: Source
) -> None:
    source.gate = asyncio.Event()
    waiting = [asyncio.create_task(get(lookups)) for _ in range(50)]
    waiting[0].cancel()
    await asyncio.sleep(0)
    source.gate.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert outcomes[1:] == [["1.2.3.4"]] * 49
    assert source.asked == ["a.example"]


async def test_a_failure_is_remembered_for_a_growing_pause(
    lookups: Lookups, source: Source, clock: FakeClock
) -> None:
    source.answer = LookupFailed("no answer")
    pause = MINUTE
    for tries in range(1, 12):
        with pytest.raises(LookupFailed, match="no answer"):
            await get(lookups)
        await clock.advance(pause * (1 - JITTER) - 1)
        with pytest.raises(LookupFailed):
            await get(lookups)
        assert len(source.asked) == tries
        await clock.advance(pause * JITTER + 1)
        pause = min(2 * pause, HOUR)
    source.answer = Found([], HOUR)
    assert await get(lookups) == []


async def test_while_asking_fails_the_last_answer_stands_in(
    lookups: Lookups, source: Source, clock: FakeClock
) -> None:
    await get(lookups)
    source.answer = LookupFailed("no answer")
    await clock.advance(HOUR)
    assert await get(lookups) == ["1.2.3.4"]
    assert await get(lookups) == ["1.2.3.4"]
    assert len(source.asked) == 2
    await clock.advance(STALE_MS / 1000 - HOUR)
    assert await get(lookups) == ["1.2.3.4"]
    await clock.advance(HOUR)
    with pytest.raises(LookupFailed):
        await get(lookups)


async def test_that_there_is_nothing_is_an_answer(
    lookups: Lookups, source: Source, clock: FakeClock
) -> None:
    await get(lookups)
    source.answer = Found([], HOUR)
    await clock.advance(HOUR)
    assert await get(lookups) == []
    assert await get(lookups) == []
    assert len(source.asked) == 2


async def test_answers_survive_a_restart(
    database: Database,
    commits: CommitQueue,
    clock: FakeClock,
    lookups: Lookups,
    source: Source,
) -> None:
    await get(lookups)
    await commits.commit([])
    again = made(database, commits, clock, source)
    assert await get(again) == ["1.2.3.4"]
    assert len(source.asked) == 1
    await clock.advance(HOUR)
    source.answer = LookupFailed("no answer")
    assert await get(made(database, commits, clock, source)) == ["1.2.3.4"]
    assert len(source.asked) == 2


async def test_what_is_doubted_is_asked_again_soon(
    lookups: Lookups, source: Source, clock: FakeClock
) -> None:
    await get(lookups)
    source.answer = Found(["5.6.7.8"], HOUR)
    lookups.doubt("address", "a.example")
    lookups.doubt("address", "never asked")
    assert await get(lookups) == ["1.2.3.4"]
    await clock.advance(30)
    assert await get(lookups) == ["5.6.7.8"]


async def test_the_same_answer_is_not_written_again_and_again(
    database: Database, lookups: Lookups, source: Source, clock: FakeClock, commits: CommitQueue
) -> None:
    source.answer = Found(["1.2.3.4"], 30)
    await get(lookups)
    await commits.commit([])
    (first,) = (await store.lookups(database, "address", ["a.example"])).values()
    for _ in range(10):
        await clock.advance(MINUTE)
        await get(lookups)
    await commits.commit([])
    assert len(source.asked) == 11
    assert await store.lookups(database, "address", ["a.example"]) == {"a.example": first}
