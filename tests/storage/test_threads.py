"""What comes of a job in a thread, and that nobody who has gone is worked for."""

import asyncio
import threading
from functools import partial

import pytest

from storage.threads import Threads


async def test_a_job_tells_what_came_of_it() -> None:
    threads = Threads(2, "test")
    assert await threads.run(lambda: threading.current_thread() is not threading.main_thread())
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 // 0)
    await threads.close()


async def test_as_many_jobs_as_threads_are_done_at_once() -> None:
    threads = Threads(3, "test")
    all_there = threading.Barrier(3)
    await asyncio.gather(*(threads.run(lambda: all_there.wait(60)) for _ in range(3)))
    await threads.close()


async def test_who_goes_before_a_job_begins_is_not_worked_for() -> None:
    threads = Threads(1, "test")
    go_on = threading.Event()
    done: list[str] = []
    first = threads.run(lambda: go_on.wait(60))
    second = threads.run(lambda: done.append("second"))
    third = threads.run(lambda: done.append("third"))
    second.cancel()
    go_on.set()
    await asyncio.gather(first, third)
    assert done == ["third"]
    await threads.close()


async def test_closing_waits_for_what_was_begun() -> None:
    threads = Threads(1, "test")
    done: list[int] = []
    jobs = [threads.run(partial(done.append, number)) for number in range(5)]
    await threads.close()
    assert done == [0, 1, 2, 3, 4]
    await asyncio.gather(*jobs)
    await Threads(1, "never used").close()
