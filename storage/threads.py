"""Threads for what blocks, and the way there and back.

Owns a few threads that work off one queue, and tells the loop what came of each job. That takes
half the steps of an executor of the standard library, which counts where a job is to read a file
that is in memory already. It does not know what the jobs do.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Threads:
    """See the module. Use it on one loop."""

    def __init__(self, count: int, name: str) -> None:
        self._jobs: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None]
        self._jobs = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            for number in range(count)
        ]
        self._is_started = False

    def run(self, job: Callable[[], T]) -> "asyncio.Future[T]":
        """What comes of a job, which begins after those before; cancelled before, it does not."""
        if not self._is_started:
            self._is_started = True
            for thread in self._threads:
                thread.start()
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put((job, done))
        return done

    async def close(self) -> None:
        """Do what was begun, and end the threads; nothing is to be run any more."""
        if not self._is_started:
            return
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _work(self) -> None:
        while (task := self._jobs.get()) is not None:
            job, done = task
            if done.cancelled():
                continue
            try:
                result, failed = job(), None
            except Exception as error:  # belongs to the caller, whatever it is
                result, failed = None, error
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                done.get_loop().call_soon_threadsafe(_tell, done, result, failed)
            del task, job, done, result, failed  # Nothing is kept while there is nothing to do.


def _tell(done: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
