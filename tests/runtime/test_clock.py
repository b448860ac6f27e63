"""The fake clock that other tests stand on."""

import asyncio

from homeserver.runtime.clock import FakeClock, SystemClock


async def test_it_stands_still_until_it_is_advanced() -> None:
    clock = FakeClock(now_ms=1_000)
    assert (clock.now_ms(), clock.monotonic()) == (1_000, 0.0)
    await clock.advance(1.5)
    assert (clock.now_ms(), clock.monotonic()) == (2_500, 1.5)


async def test_what_falls_due_runs_in_order_and_sees_its_own_time() -> None:
    clock = FakeClock()
    seen: list[tuple[str, float]] = []
    clock.call_later(2, lambda: seen.append(("two", clock.monotonic())))
    clock.call_later(1, lambda: seen.append(("one", clock.monotonic())))
    clock.call_later(1, lambda: seen.append(("one again", clock.monotonic())))
    clock.call_later(9, lambda: seen.append(("never", clock.monotonic())))
    await clock.advance(5)
    assert seen == [("one", 1.0), ("one again", 1.0), ("two", 2.0)]
    assert clock.waiting() == 1


async def test_a_sleeper_goes_on_before_later_entries_run() -> None:
    clock = FakeClock()
    seen: list[float] = []

    async def tick() -> None:
        for _ in range(3):
            await clock.sleep(1)
            seen.append(clock.monotonic())

    task = asyncio.create_task(tick())
    await clock.advance(10)
    assert seen == [1.0, 2.0, 3.0]
    await task


async def test_cancelled_entries_do_not_run() -> None:
    clock = FakeClock()
    seen: list[int] = []
    clock.call_later(1, lambda: seen.append(1)).cancel()
    sleeper = asyncio.create_task(clock.sleep(1))
    await asyncio.sleep(0)
    sleeper.cancel()
    await asyncio.gather(sleeper, return_exceptions=True)
    assert clock.waiting() == 0
    await clock.advance(2)
    assert seen == []


async def test_the_systems_clock_plans_on_the_running_loop() -> None:
    clock = SystemClock()
    done = asyncio.Event()
    clock.call_later(0, done.set)
    await asyncio.wait_for(done.wait(), 5)
    await clock.sleep(-1)
    assert clock.now_ms() > 1_600_000_000_000
