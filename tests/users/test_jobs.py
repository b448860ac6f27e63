"""Jobs: done once or more, never never."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from homeserver.matrix.canonical import JsonObject
from homeserver.runtime import jobs as module
from homeserver.runtime.clock import FakeClock
from homeserver.runtime.jobs import LOOK_AGAIN_SECONDS, Jobs
from homeserver.streams.commit import CommitQueue
from homeserver.streams.numbers import Numbers
from storage.accounts import jobs_due
from storage.engine import Database


class Doer:
    """A handler that notes what it is asked and fails as often as it is told."""

    def __init__(self) -> None:
        self.done: asyncio.Queue[JsonObject] = asyncio.Queue()
        self.failures = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_once = 0
        self.most_at_once = 0

    async def do(self, args: JsonObject) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.gate.wait()
            self.done.put_nowait(args)
            if self.failures:
                self.failures -= 1
                raise ValueError("not now")
        finally:
            self.at_once -= 1


@asynccontextmanager
async def running(jobs: Jobs) -> AsyncIterator[None]:
    task = asyncio.create_task(jobs.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def doer() -> Doer:
    return Doer()


def new_jobs(database: Database, commits: CommitQueue, clock: FakeClock, doer: Doer) -> Jobs:
    jobs = Jobs(database, commits, Numbers(database), clock)
    jobs.handle({"work": doer.do})
    return jobs


@pytest.fixture
def jobs(database: Database, commits: CommitQueue, clock: FakeClock, doer: Doer) -> Jobs:
    return new_jobs(database, commits, clock, doer)


async def add(jobs: Jobs, commits: CommitQueue, number: int, kind: str = "work") -> None:
    await commits.commit([await jobs.new(kind, {"n": number})])
    jobs.wake()


async def emptied(database: Database, clock: FakeClock, commits: CommitQueue) -> None:
    """Wait until no job is left."""
    while await jobs_due(database, clock.now_ms() + 10**12, 1):
        await commits.commit([])


async def test_a_job_is_done_and_gone(
    jobs: Jobs, doer: Doer, commits: CommitQueue, database: Database, clock: FakeClock
) -> None:
    async with running(jobs):
        await add(jobs, commits, 1)
        assert await doer.done.get() == {"n": 1}
        await emptied(database, clock, commits)
    assert doer.done.empty()


async def test_what_was_not_done_is_done_after_a_restart(
    jobs: Jobs, doer: Doer, commits: CommitQueue, database: Database, clock: FakeClock
) -> None:
    doer.gate.clear()
    async with running(jobs):
        await add(jobs, commits, 1)
        await add(jobs, commits, 2)
    assert doer.done.empty()
    doer.gate.set()
    again = new_jobs(database, commits, clock, doer)
    async with running(again):
        assert [(await doer.done.get())["n"], (await doer.done.get())["n"]] == [1, 2]
        await emptied(database, clock, commits)


async def test_a_job_that_fails_is_tried_again_later(
    jobs: Jobs,
    doer: Doer,
    commits: CommitQueue,
    database: Database,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    doer.failures = 2
    async with running(jobs):
        await add(jobs, commits, 1)
        await doer.done.get()
        for tries in (1, 2):
            while [job.tries for job in await jobs_due(database, 10**15, 9)] != [tries]:
                await commits.commit([])
            assert not await jobs_due(database, clock.now_ms(), 1)
            while doer.done.empty():
                await clock.advance(1)
                await commits.commit([])
            await doer.done.get()
        await emptied(database, clock, commits)
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


async def test_a_job_that_takes_long_keeps_no_other_from_its_next_try(
    jobs: Jobs, doer: Doer, commits: CommitQueue, database: Database, clock: FakeClock
) -> None:
    """As one that asks a server that says nothing."""
    began = asyncio.Event()

    async def stuck(args: JsonObject) -> None:
        began.set()
        await asyncio.Event().wait()

    jobs.handle({"stuck": stuck})
    doer.failures = 1
    async with running(jobs):
        await add(jobs, commits, 1, "stuck")
        await began.wait()
        await add(jobs, commits, 2)
        await doer.done.get()
        while [job.tries for job in await jobs_due(database, 10**15, 9)] != [0, 1]:
            await commits.commit([])
        tried = clock.now_ms()
        while doer.done.empty():
            await clock.advance(1)
            await commits.commit([])
        assert clock.now_ms() - tried < 1_000 * LOOK_AGAIN_SECONDS


@pytest.mark.parametrize("kind", ["work", "unknown"])
async def test_a_job_that_always_fails_is_given_up(
    jobs: Jobs,
    doer: Doer,
    commits: CommitQueue,
    database: Database,
    clock: FakeClock,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_TRIES", 1)
    doer.failures = 1
    async with running(jobs):
        await add(jobs, commits, 1, kind)
        await emptied(database, clock, commits)


async def test_equal_jobs_are_never_done_at_once(
    jobs: Jobs, doer: Doer, commits: CommitQueue, database: Database, clock: FakeClock
) -> None:
    async with running(jobs):
        for _ in range(5):
            await add(jobs, commits, 1)
        await emptied(database, clock, commits)
    assert doer.most_at_once == 1
    assert doer.done.qsize() == 5
