"""Whose turn it is at each gateway.

Owns how much is brought at once, to one gateway and to all together: what waits for a gateway waits
in one line, which so many tasks work off, each bringing one thing after the other. A gateway that
answers slowly or never keeps no other waiting. It does not know what is brought.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

PER_GATEWAY = 100
"""How many notifications one gateway is brought at once: it may take 0.5 s for each of 200/s."""
IN_ALL = 1_000

Work = Coroutine[Any, Any, None]
Spawn = Callable[[str, Work], object]
T = TypeVar("T")


class _Line(Generic[T]):
    """What waits for one gateway, and how many tasks bring it."""

    __slots__ = ("bringing", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[T] = deque()
        self.bringing = 0


class Turns(Generic[T]):
    """See the module; `bring` brings one thing and never fails."""

    def __init__(self, bring: Callable[[T], Awaitable[None]], spawn: Spawn) -> None:
        self._bring = bring
        self._spawn = spawn
        self._lines: dict[str, _Line[T]] = {}
        self._free = asyncio.Semaphore(IN_ALL)

    def add(self, gateway: str, thing: T) -> None:
        """Have something brought to a gateway, after what waits for that already."""
        line = self._lines.get(gateway)
        if line is None:
            line = self._lines[gateway] = _Line()
        line.waiting.append(thing)
        if line.bringing < PER_GATEWAY:
            line.bringing += 1
            self._spawn("push", self._work_off(gateway, line))

    async def _work_off(self, gateway: str, line: _Line[T]) -> None:
        try:
            while line.waiting:
                async with self._free:
                    while line.waiting:
                        await self._bring(line.waiting.popleft())
                        if self._free.locked():  # Perhaps by others who wait.
                            break
        finally:
            line.bringing -= 1
            if not line.bringing:
                del self._lines[gateway]
