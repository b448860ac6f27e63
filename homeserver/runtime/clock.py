"""Time, as something that is handed in.

Owns the `Clock` protocol and its two forms: `SystemClock` for the server and `FakeClock` for tests,
which stands still until it is advanced. Nothing else in the project reads the time or sleeps.
"""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol


class Timer(Protocol):
    """A call that was planned; cancelling it twice, or after it ran, does nothing."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    def now_ms(self) -> int:
        """Milliseconds since 1970: for what is stored or shown."""

    def monotonic(self) -> float:
        """Seconds that never go back: for durations."""

    async def sleep(self, seconds: float) -> None:
        """Wait; zero or less only yields."""

    def call_later(self, seconds: float, call: Callable[..., object], *args: Any) -> Timer:
        """Plan a call on the event loop, with these arguments."""


class SystemClock:
    """The machine's time; `call_later` needs a running loop."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0, seconds))

    def call_later(self, seconds: float, call: Callable[..., object], *args: Any) -> Timer:
        return asyncio.get_running_loop().call_later(seconds, call, *args)


class _Planned:
    """One entry of the fake clock's agenda, ordered by time and then by the order of planning."""

    __slots__ = ("at", "call", "cancelled", "number")

    def __init__(self, at: float, number: int, call: Callable[[], object]) -> None:
        self.at = at
        self.number = number
        self.call = call
        self.cancelled = False

    def __lt__(self, other: "_Planned") -> bool:
        return (self.at, self.number) < (other.at, other.number)

    def cancel(self) -> None:
        self.cancelled = True


def _wake(woken: "asyncio.Future[None]") -> None:
    if not woken.done():
        woken.set_result(None)


class FakeClock:
    """A clock that stands still until `advance` moves it.

    What falls due runs in order of its time, and the loop gets turns after each, so that a task
    woken by it goes on before later entries run.
    """

    TURNS = 20  # turns of the loop after each entry: enough for a chain of awaits without I/O

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._start_ms = now_ms
        self._elapsed = 0.0
        self._agenda: list[_Planned] = []
        self._numbers = itertools.count()

    def now_ms(self) -> int:
        return self._start_ms + round(self._elapsed * 1000)

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.call_later(seconds, lambda: _wake(woken))
        try:
            await woken
        finally:
            timer.cancel()

    def call_later(self, seconds: float, call: Callable[..., object], *args: Any) -> Timer:
        at = self._elapsed + max(seconds, 0.0)
        planned = _Planned(at, next(self._numbers), partial(call, *args) if args else call)
        heapq.heappush(self._agenda, planned)
        return planned

    async def advance(self, seconds: float) -> None:
        """Move time on, running in order what falls due on the way."""
        until = self._elapsed + seconds
        await self._turns()
        while self._agenda and self._agenda[0].at <= until:
            planned = heapq.heappop(self._agenda)
            if planned.cancelled:
                continue
            self._elapsed = max(self._elapsed, planned.at)
            planned.call()
            await self._turns()
        self._elapsed = until
        await self._turns()

    def waiting(self) -> int:
        """How many calls are planned and not cancelled."""
        return sum(not planned.cancelled for planned in self._agenda)

    async def _turns(self) -> None:
        for _ in range(self.TURNS):
            await asyncio.sleep(0)
