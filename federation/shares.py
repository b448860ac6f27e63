"""How much of what this server does for others one other server may take up.

Owns two shares: of the events that may wait for a room, and of the questions that are under way on
behalf of one server. Whoever floods fills its own share, and what is left to others never ends.
"""

import asyncio
from collections.abc import Mapping
from weakref import WeakValueDictionary

MAX_STAGED = 2_000
"""Events that are staged for one room; what comes then is fetched again as a gap later."""
LEAST = 20
"""So many of them each server may have, whatever others have."""
AT_ONCE = 4


def free(staged: Mapping[str, int], origin: str) -> int:
    """How many more events a server may stage for a room, given how many each has there."""
    own = staged.get(origin, 0)
    others = sum(staged.values()) - own
    return max(LEAST, (MAX_STAGED - others) // 2) - own


class Slots:
    """Questions under way on behalf of each server: `async with slots.of(origin)` waits for one."""

    def __init__(self) -> None:
        self._slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def of(self, origin: str) -> asyncio.Semaphore:
        """The server's semaphore; it lives as long as somebody holds it."""
        found = self._slots.get(origin)
        if found is None:
            found = self._slots[origin] = asyncio.Semaphore(AT_ONCE)
        return found
