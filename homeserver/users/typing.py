"""Who is typing where.

Owns the typing users of each room, in memory only. Every change takes the next number of a counter
of its own: typing has no stream position and moves none. A notice ends by itself when its time is
over. Rooms that nobody has typed in for long are forgotten; `floor` says since when changes are
known completely.
spec: client-server-api#typing-notifications
"""

from collections import OrderedDict
from collections.abc import Callable, Collection

from homeserver.matrix.canonical import encode
from homeserver.runtime.clock import Clock, Timer

MAX_TIMEOUT_MS = 120_000
MAX_ROOMS = 20_000


class Typing:
    """The typing state of all rooms of this process.

    `changed(room_nid)` is called after each change; `counter` is the number of the latest one.
    """

    def __init__(self, clock: Clock, changed: Callable[[int], None]) -> None:
        self._clock = clock
        self._changed = changed
        self._typing: dict[int, dict[str, Timer]] = {}
        self._last: OrderedDict[int, int] = OrderedDict()
        self.counter = 0
        self.floor = 0

    def start(self, room_nid: int, user_id: str, timeout_ms: int) -> None:
        """The user types for the next `timeout_ms` milliseconds (two minutes at most)."""
        users = self._typing.setdefault(room_nid, {})
        before = users.get(user_id)
        if before is not None:
            before.cancel()
        seconds = min(max(timeout_ms, 1), MAX_TIMEOUT_MS) / 1000
        users[user_id] = self._clock.call_later(seconds, lambda: self.stop(room_nid, user_id))
        if before is None:
            self._moved(room_nid)

    def stop(self, room_nid: int, user_id: str) -> None:
        """The user types no longer (or has left); nothing happens if they did not."""
        users = self._typing.get(room_nid)
        timer = users.pop(user_id, None) if users else None
        if timer is None:
            return
        timer.cancel()
        if not users:
            del self._typing[room_nid]
        self._moved(room_nid)

    def users(self, room_nid: int) -> list[str]:
        """The ids of those who type in the room, in the order in which they began."""
        return list(self._typing.get(room_nid, ()))

    def changed_since(self, counter: int, rooms: Collection[int]) -> list[int]:
        """Which of `rooms` changed after `counter`.

        For a counter that is not of this process, or below `floor`, those in which somebody types.
        """
        if counter == self.counter:
            return []
        if not self.floor <= counter <= self.counter:
            return [room_nid for room_nid in self._typing if room_nid in rooms]
        found: list[int] = []
        for room_nid in reversed(self._last):
            if self._last[room_nid] <= counter:
                break
            if room_nid in rooms:
                found.append(room_nid)
        return found

    def event(self, room_nid: int, ignored: Collection[str] = ()) -> bytes:
        """The room's `m.typing` event as JSON, for a reader who ignores these users."""
        users = [user_id for user_id in self.users(room_nid) if user_id not in ignored]
        return encode({"type": "m.typing", "content": {"user_ids": users}})

    def _moved(self, room_nid: int) -> None:
        self.counter += 1
        self._last[room_nid] = self.counter
        self._last.move_to_end(room_nid)
        if len(self._last) > MAX_ROOMS:
            _, self.floor = self._last.popitem(last=False)
        self._changed(room_nid)
