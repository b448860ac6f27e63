"""Background tasks that cannot be lost.

Owns every task that outlives the call that started it: each has a name, its failure is logged, a
service is started again after a pause, and `stop` ends and awaits them all. It does not know what
the tasks do.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from homeserver.runtime.clock import Clock

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 60.0
HEALTHY_AFTER = 30.0
"""A service that ran this many seconds starts again with the first pause."""


class Supervisor:
    """The background tasks of one process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping = False

    def service(self, name: str, run: Callable[[], Awaitable[object]]) -> None:
        """Run `run` until `stop`, and again whenever it fails, with growing pauses.

        A service that returns is over: it is not started again.
        """
        self.once(name, self._supervise(name, run))

    def once(self, name: str, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run `work` once in the background; a failure that nobody awaits is logged.

        After `stop` the work is not begun and the task is cancelled.
        """
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        if self._stopping:
            task.cancel()
        return task

    def names(self) -> list[str]:
        """The names of what runs now, sorted."""
        return sorted(task.get_name() for task in self._tasks)

    async def stop(self) -> None:
        """Cancel everything and wait for its end."""
        self._stopping = True
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(list(self._tasks))
            await asyncio.sleep(0)

    async def _supervise(self, name: str, run: Callable[[], Awaitable[object]]) -> None:
        pause = FIRST_PAUSE
        while True:
            began = self._clock.monotonic()
            try:
                await run()
            except Exception:
                if self._clock.monotonic() - began >= HEALTHY_AFTER:
                    pause = FIRST_PAUSE
                log.exception("%s failed and starts again in %.1f s", name, pause)
            else:
                return
            await self._clock.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)
