"""Accounts of what requests cost: right, bounded, fading, and cheap to keep."""

import asyncio
from time import perf_counter, process_time

import pytest

from homeserver.runtime.costs import COST, HALF_LIFE, MOST, Cost, Costs, Measured, database_seconds


class Time:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def cost(loop: float, *, room: str | None = None, user: str | None = None) -> Cost:
    made = Cost()
    made.loop, made.room, made.user = loop, room, user
    return made


async def test_steps_are_measured_and_waiting_is_not() -> None:
    measured = Cost()
    woken: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def work() -> str:
        busy(0.002)
        found = await woken
        busy(0.002)
        return found

    def busy(seconds: float) -> None:
        until = perf_counter() + seconds
        while perf_counter() < until:
            pass

    async def run() -> str:
        return await Measured(work(), measured)

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    busy(0.05)
    woken.set_result("done")
    assert await task == "done"
    assert 0.004 <= measured.loop < 0.05


async def test_errors_and_cancellation_pass_through() -> None:
    async def fail() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await Measured(fail(), Cost())
    seen = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def run() -> None:
        await Measured(wait(), Cost())

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled"]


def test_the_database_is_counted_for_the_request_at_work() -> None:
    database_seconds(1.0)
    mine = Cost()
    token = COST.set(mine)
    database_seconds(0.25)
    database_seconds(0.5)
    COST.reset(token)
    assert mine.database == 0.75


def test_the_dearest_come_first() -> None:
    costs = Costs(Time())
    costs.add("GET /a", cost(1.0, room="!one", user="@ada"))
    costs.add("GET /b", cost(3.0, room="!two", user="@ada"))
    costs.add("GET /b", cost(0.5))
    assert [(name, one.loop) for name, one in costs.top("room", 9)] == [("!two", 3), ("!one", 1)]
    assert [(name, one.requests) for name, one in costs.top("user", 9)] == [("@ada", 2)]
    assert [name for name, _ in costs.top("endpoint", 1)] == ["GET /b"]


def test_what_is_older_counts_less_for_ever() -> None:
    time = Time()
    costs = Costs(time)
    costs.add("old", cost(8.0))
    time.now += 3 * HALF_LIFE
    costs.add("new", cost(2.0))
    assert [(name, round(one.loop, 9)) for name, one in costs.top("endpoint", 2)] == [
        ("new", 2),
        ("old", 1),
    ]
    for _ in range(100):
        time.now += 50 * HALF_LIFE
        costs.add("new", cost(2.0))
    assert round(costs.top("endpoint", 1)[0][1].loop, 9) == 2


def test_accounts_are_bounded_and_the_dearest_stay() -> None:
    costs = Costs(Time())
    costs.add("GET /a", cost(5.0, room="!dear"))
    for number in range(5 * MOST):
        costs.add("GET /a", cost(0.001, room=f"!{number}"))
    assert len(costs.top("room", 10 * MOST)) <= MOST
    assert costs.top("room", 1)[0][0] == "!dear"


def test_counting_is_cheap() -> None:
    costs = Costs()
    mine = cost(0.001, room="!one", user="@ada")
    runs = 20_000

    def seconds() -> float:
        began = process_time()
        for _ in range(runs):
            costs.add("GET /a", mine)
        return process_time() - began

    assert min(seconds() for _ in range(5)) / runs < 5e-6
