"""How long a server that fails is left alone."""

from collections import Counter
from collections.abc import AsyncIterator

import pytest

from federation.destinations import DAY, HOUR, JITTER, MINUTE, SECOND, Destinations
from homeserver.errors import Unreachable
from homeserver.runtime.clock import FakeClock
from homeserver.streams.commit import CommitQueue
from storage import federation as store
from storage.engine import Database
from tests.users.conftest import NoMetrics

PEER = "a.example"


@pytest.fixture
async def commits(database: Database, clock: FakeClock) -> AsyncIterator[CommitQueue]:
    queue = CommitQueue(database, clock, NoMetrics(), lambda pos: None, lambda pos: None)
    queue.start()
    yield queue
    await queue.close()


@pytest.fixture
def destinations(database: Database, commits: CommitQueue, clock: FakeClock) -> Destinations:
    return Destinations(database, commits, clock)


async def pause(destinations: Destinations, clock: FakeClock) -> int:
    """Fail once more, wait until the next try, and say how long that was (ms)."""
    now = clock.now_ms()
    retry = await destinations.failed(PEER, "no answer", now)
    if retry > now:
        with pytest.raises(Unreachable, match="no answer"):
            await destinations.check(PEER)
    await clock.advance((retry - now) / 1000 + 0.001)
    await destinations.check(PEER)
    return retry - now


async def test_for_two_minutes_it_is_tried_within_seconds(
    destinations: Destinations, clock: FakeClock
) -> None:
    await destinations.succeeded(PEER)
    pauses = [await pause(destinations, clock) for _ in range(8)]
    expected = [1, 2, 4, 8, 16, 30, 30, 30]
    for got, seconds in zip(pauses, expected, strict=True):
        assert seconds * SECOND * (1 - JITTER) <= got <= seconds * SECOND


@pytest.mark.parametrize(("known", "longest"), [(True, HOUR), (False, DAY)])
async def test_then_the_pause_doubles_from_a_minute_to_an_hour_or_a_day(
    destinations: Destinations, clock: FakeClock, known: bool, longest: int
) -> None:
    if known:
        await destinations.succeeded(PEER)
    pauses = [await pause(destinations, clock) for _ in range(30)]
    slow = [one for one in pauses if one > 31 * SECOND]
    expected = [min(MINUTE << n, longest) for n in range(len(slow))]
    for got, most in zip(slow, expected, strict=True):
        assert most * (1 - JITTER) <= got <= most
    assert expected[-1] == longest


async def test_who_was_heard_of_this_week_waits_an_hour_at_most(
    destinations: Destinations, clock: FakeClock
) -> None:
    await destinations.succeeded(PEER)
    last = 0
    for _ in range(100):
        last = await pause(destinations, clock)
    assert last <= HOUR
    await clock.advance(7 * 86_400)
    for _ in range(10):
        last = await pause(destinations, clock)
    assert last > 20 * HOUR


async def test_a_server_that_is_dead_for_thirty_days_is_tried_once_a_day(
    destinations: Destinations, clock: FakeClock
) -> None:
    """In seconds for two minutes, from a minute doubling to an hour for a week, then to a day."""
    await destinations.succeeded(PEER)
    died = clock.now_ms()
    tried = [0]
    while tried[-1] < 30 * DAY:
        await pause(destinations, clock)
        tried.append(clock.now_ms() - died)
    assert 8 <= sum(at <= 2 * MINUTE for at in tried) <= 12
    by_day = Counter(at // DAY for at in tried)
    assert all(24 <= by_day[day] <= 27 for day in range(1, 7)), by_day
    assert sum(by_day[day] for day in range(10, 30)) <= 23, by_day  # jitter makes it a tenth more
    assert min(by_day[day] for day in range(10, 30)) == 1, by_day
    # What it is heard to say itself ends that at once.
    await destinations.failed(PEER, "no answer", clock.now_ms())
    with pytest.raises(Unreachable):
        await destinations.check(PEER)
    await destinations.succeeded(PEER)
    await destinations.check(PEER)


async def test_success_ends_it(destinations: Destinations, clock: FakeClock) -> None:
    for _ in range(20):
        await pause(destinations, clock)
    await destinations.failed(PEER, "no answer", clock.now_ms())
    await destinations.succeeded(PEER)
    await destinations.check(PEER)
    assert await pause(destinations, clock) <= SECOND


async def test_failures_that_were_under_way_together_count_once(
    destinations: Destinations, clock: FakeClock
) -> None:
    began = clock.now_ms()
    await clock.advance(10)
    first = await destinations.failed(PEER, "no answer", began)
    for _ in range(20):
        assert await destinations.failed(PEER, "no answer", began) == first


async def test_it_survives_a_restart(
    destinations: Destinations, database: Database, commits: CommitQueue, clock: FakeClock
) -> None:
    await destinations.succeeded(PEER)
    await clock.advance(5)
    retry = await destinations.failed(PEER, "no route to host", clock.now_ms())
    await commits.commit([])
    again = Destinations(database, commits, clock)
    with pytest.raises(Unreachable, match="no route to host") as caught:
        await again.check(PEER)
    assert caught.value.retry_ts == retry
    assert (await again.state(PEER)).last_success_ts == clock.now_ms() - 5_000


async def test_an_operator_may_have_it_tried_at_once(
    destinations: Destinations, clock: FakeClock
) -> None:
    heard: list[str] = []
    destinations.on_alive(heard.append)
    await destinations.failed(PEER, "no answer", clock.now_ms())
    destinations.reset(PEER)
    await destinations.check(PEER)
    assert heard == [PEER]


async def test_strangers_that_never_answered_are_forgotten(
    destinations: Destinations, database: Database, clock: FakeClock
) -> None:
    await destinations.succeeded("known.example")
    await clock.advance(1)
    for server in ("known.example", "stranger.example"):
        await destinations.failed(server, "no such name", clock.now_ms())
    await clock.advance(86_500)
    await destinations.forget_strangers()
    kept = await store.destinations(database, ["known.example", "stranger.example"])
    assert list(kept) == ["known.example"]


async def test_successes_are_written_once_an_hour(
    destinations: Destinations, database: Database, commits: CommitQueue, clock: FakeClock
) -> None:
    await destinations.succeeded(PEER)
    began = clock.now_ms()
    for minutes, expected in ((30, began), (31, began + 61 * MINUTE)):
        await clock.advance(minutes * 60)
        await destinations.succeeded(PEER)
        await commits.commit([])
        assert (await store.destinations(database, [PEER]))[PEER].last_success_ts == expected
