"""Background tasks are never lost."""

import asyncio
import logging

import pytest

from homeserver.runtime.clock import FakeClock
from homeserver.runtime.tasks import Supervisor


async def test_a_service_that_fails_starts_again_after_growing_pauses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    starts: list[float] = []

    async def fail() -> None:
        starts.append(round(clock.monotonic(), 3))
        raise ValueError("broken")

    supervisor = Supervisor(clock)
    with caplog.at_level(logging.ERROR):
        supervisor.service("sender", fail)
        await clock.advance(1)
        await supervisor.stop()
    assert starts == [0.0, 0.1, 0.3, 0.7]
    assert "sender failed and starts again" in caplog.text
    assert "ValueError: broken" in caplog.text


async def test_after_a_healthy_while_the_pause_is_short_again() -> None:
    clock = FakeClock()
    starts: list[float] = []

    async def fail_late() -> None:
        starts.append(round(clock.monotonic(), 3))
        await clock.sleep(40 if len(starts) > 3 else 0)
        raise ValueError

    supervisor = Supervisor(clock)
    supervisor.service("sender", fail_late)
    await clock.advance(41)
    await supervisor.stop()
    assert starts == [0.0, 0.1, 0.3, 0.7, 40.8]


async def test_a_service_that_returns_is_over() -> None:
    clock = FakeClock()
    supervisor = Supervisor(clock)
    runs: list[int] = []

    async def once() -> None:
        runs.append(1)

    supervisor.service("short", once)
    await clock.advance(100)
    assert (runs, supervisor.names()) == ([1], [])


async def test_the_failure_of_a_single_task_is_logged_with_its_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    supervisor = Supervisor(FakeClock())

    async def fail() -> None:
        raise ValueError("broken")

    with caplog.at_level(logging.ERROR):
        task = supervisor.once("clean-up", fail())
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0)
    assert "clean-up failed" in caplog.text


async def test_stop_ends_and_awaits_everything_also_what_begins_meanwhile() -> None:
    supervisor = Supervisor(FakeClock())
    ended: list[str] = []

    async def wait(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)
            if name == "first":
                supervisor.once("late", wait("late"))

    supervisor.once("first", wait("first"))
    supervisor.service("second", lambda: wait("second"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert supervisor.names() == ["first", "second"]
    await supervisor.stop()
    assert sorted(ended) == ["first", "second"]
    assert supervisor.names() == []
