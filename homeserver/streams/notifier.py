"""Waking the requests that wait for news.

Owns the parked requests by user. A wake-up touches only the users whom it concerns; several in one
turn of the loop are one wake-up. It carries no news itself: whoever wakes looks for them.
"""

import asyncio
from collections.abc import Collection, Iterable

from homeserver.runtime.clock import Clock

TOGETHER_SECONDS = 0.25
"""Long waits that end within this time of each other share one timer, and end up to that early."""
_LONG_SECONDS = 4 * TOGETHER_SECONDS


class Notifier:
    """Parked requests by user number, and those that wait for one room, too, by its number."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Nearly all users have one: lists take less than sets.
        self._parked: dict[int, list[asyncio.Future[None]]] = {}
        self._ending: dict[float, set[asyncio.Future[None]]] = {}
        self._watching: dict[int, set[asyncio.Future[None]]] = {}
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many requests are parked."""
        return sum(len(futures) for futures in self._parked.values())

    def is_waiting(self, user_nid: int) -> bool:
        """Whether the user has parked requests."""
        return user_nid in self._parked

    async def wait(self, user_nid: int, timeout: float, room_nid: int | None = None) -> bool:
        """Park until the user, or the room if one is given, is woken; at most `timeout` seconds.

        Whether the server goes on. Returns at once when it is stopping, or no time is given.
        """
        if self._closed or timeout <= 0:
            return False
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        parked = self._parked.get(user_nid)
        if parked is None:
            parked = self._parked[user_nid] = []
        parked.append(future)
        if room_nid is not None:
            self._watching.setdefault(room_nid, set()).add(future)
        ending = self._ending_in(timeout)
        ending.add(future)
        try:
            await future
        finally:
            ending.discard(future)
            parked.remove(future)
            if not parked and self._parked.get(user_nid) is parked:
                del self._parked[user_nid]
            if room_nid is not None:
                self._watching[room_nid].discard(future)
                if not self._watching[room_nid]:
                    del self._watching[room_nid]
        return not self._closed

    def _ending_in(self, seconds: float) -> set[asyncio.Future[None]]:
        """The requests that are woken then at the latest."""
        now = self._clock.monotonic()
        then = now + seconds
        if seconds >= _LONG_SECONDS:
            then = then // TOGETHER_SECONDS * TOGETHER_SECONDS
        ending = self._ending.get(then)
        if ending is None:
            ending = self._ending[then] = set()
            self._clock.call_later(then - now, self._end, then)
        return ending

    def _end(self, then: float) -> None:
        for future in self._ending.pop(then):
            _wake(future)

    def wake(self, users: Iterable[int]) -> None:
        """Wake the parked requests of these users."""
        for user_nid in users:
            for future in self._parked.get(user_nid, ()):
                _wake(future)

    def wake_among(self, users: Collection[int]) -> None:
        """`wake`, by going over the smaller of the given and the parked users."""
        if len(users) <= len(self._parked):
            self.wake(users)
        else:
            self.wake([user_nid for user_nid in self._parked if user_nid in users])

    def wake_room(self, room_nid: int) -> None:
        """Wake the requests that wait for the room, whoever made them."""
        for future in self._watching.get(room_nid, ()):
            _wake(future)

    def wake_all(self) -> None:
        """Wake everybody."""
        self.wake(list(self._parked))

    def close(self) -> None:
        """Answer everybody now, and whoever comes later at once."""
        self._closed = True
        self.wake_all()


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
