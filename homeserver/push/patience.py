"""Waiting for what must not be given up.

Owns the one way in which push goes on after a failure that is not its own: it is logged and tried
again, with growing pauses, until it works. What must not wait that long is decided by the callers.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from homeserver.runtime.clock import Clock

log = logging.getLogger(__name__)

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 300.0

T = TypeVar("T")


def pause_after(tries: int) -> float:
    """Seconds to wait after so many failures (at least one) in a row."""
    return min(FIRST_PAUSE * 2.0 ** min(tries - 1, 30), LONGEST_PAUSE)


class Patience:
    """See the module."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def until_done(self, what: str, work: Callable[[], Awaitable[T]]) -> T:
        """The result of the work, however often it fails before; `what` waits, in words."""
        tries = 0
        while True:
            try:
                return await work()
            except Exception:
                log.exception("%s and is tried again", what)
            tries += 1
            await self._clock.sleep(pause_after(tries))
