"""The last stretch of the stream in memory, ready to be sent.

Owns the entries of the positions in (`floor`, `pos`], bounded by bytes, indexed by room and by
user. Invariant: a reader whose position is at or above `floor` finds here everything that
happened since; below it must read the database. It keeps no state of any room or client.
"""

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

from homeserver.rooms.views import EventView

# What an entry costs beyond its own bytes: objects and index slots.
_ENTRY_OVERHEAD = 600


@dataclass(frozen=True, slots=True)
class StateChange:
    """The value of one state key of a room before and after an event (event numbers)."""

    key_nid: int
    old_nid: int | None
    new_nid: int | None


@dataclass(frozen=True, slots=True)
class EventEntry:
    """An event of a room's timeline and the state that changed with it.

    `mentioned` are local users (numbers); `thread` is the id of the root of the event's thread.
    """

    pos: int
    view: EventView
    changes: tuple[StateChange, ...]
    mentioned: frozenset[int] = frozenset()
    thread: str | None = None


@dataclass(frozen=True, slots=True)
class ReceiptEntry:
    """A receipt that moved. `private` receipts concern only their own user."""

    pos: int
    room_nid: int
    user_nid: int
    user_id: str
    private: bool
    thread: str
    event_id: str
    ts: int


@dataclass(frozen=True, slots=True)
class AccountDataEntry:
    """Account data of a user, global (`room_nid` 0) or of a room; `content` is JSON."""

    pos: int
    user_nid: int
    room_nid: int
    type: str
    content: bytes


RoomEntry = EventEntry | ReceiptEntry
_Entry = TypeVar("_Entry", EventEntry | ReceiptEntry, AccountDataEntry)


class Ring:
    """See the module. All calls happen on the loop, in stream order."""

    def __init__(self, max_bytes: int, pos: int) -> None:
        self.pos = pos
        self.floor = pos
        self._max_bytes = max_bytes
        self._bytes = 0
        self._order: deque[tuple[int, int, int, int]] = deque()  # pos, size, room, user
        self._rooms: dict[int, deque[RoomEntry]] = {}
        self._users: dict[int, deque[AccountDataEntry]] = {}
        self._views: dict[int, EventView] = {}

    def add_event(self, entry: EventEntry) -> None:
        """Append an event; its `pos` must be the next one."""
        view = entry.view
        self._rooms.setdefault(view.room_nid, deque()).append(entry)
        self._views[view.nid] = view
        self._grow(entry.pos, len(view.body) + len(view.extra), view.room_nid, 0)

    def add_receipt(self, entry: ReceiptEntry) -> None:
        """Append a receipt."""
        self._rooms.setdefault(entry.room_nid, deque()).append(entry)
        self._grow(entry.pos, 0, entry.room_nid, 0)

    def add_account_data(self, entry: AccountDataEntry) -> None:
        """Append account data."""
        self._users.setdefault(entry.user_nid, deque()).append(entry)
        self._grow(entry.pos, len(entry.content), 0, entry.user_nid)

    def advance(self, pos: int) -> None:
        """Everything up to `pos` has been added."""
        self.pos = max(self.pos, pos)
        if self._max_bytes <= 0:
            self.floor = self.pos

    def drop(self, pos: int) -> None:
        """Forget everything: what happened up to `pos` can't be told from memory any more."""
        self._order.clear()
        self._rooms.clear()
        self._users.clear()
        self._views.clear()
        self._bytes = 0
        self.pos = max(self.pos, pos)
        self.floor = self.pos

    @property
    def views(self) -> Mapping[int, EventView]:
        """The views of the events in the ring, by number."""
        return self._views

    def rooms_since(self, since: int, rooms: Collection[int]) -> set[int]:
        """Which of `rooms` have entries after `since` (which must be at or above `floor`)."""
        behind = self.pos - since
        if behind <= 0:
            return set()
        found: set[int] = set()
        if behind < 2 * len(rooms):
            for pos, _, room_nid, _ in reversed(self._order):
                if pos <= since:
                    break
                if room_nid in rooms:
                    found.add(room_nid)
            return found
        for room_nid in rooms:
            entries = self._rooms.get(room_nid)
            if entries and entries[-1].pos > since:
                found.add(room_nid)
        return found

    def room_entries(self, room_nid: int, since: int, until: int) -> list[RoomEntry]:
        """Entries of a room in (since, until], oldest first."""
        return _between(self._rooms.get(room_nid), since, until)

    def account_data(self, user_nid: int, since: int, until: int) -> list[AccountDataEntry]:
        """Account data of a user in (since, until], oldest first."""
        return _between(self._users.get(user_nid), since, until)

    def _grow(self, pos: int, size: int, room_nid: int, user_nid: int) -> None:
        self.pos = pos
        size += _ENTRY_OVERHEAD
        self._bytes += size
        self._order.append((pos, size, room_nid, user_nid))
        while self._bytes > self._max_bytes and self._order:
            self._shrink()

    def _shrink(self) -> None:
        pos, size, room_nid, user_nid = self._order.popleft()
        self._bytes -= size
        self.floor = pos
        if room_nid:
            entries = self._rooms[room_nid]
            gone = entries.popleft()
            if isinstance(gone, EventEntry):
                self._views.pop(gone.view.nid, None)
            if not entries:
                del self._rooms[room_nid]
        else:
            data = self._users[user_nid]
            data.popleft()
            if not data:
                del self._users[user_nid]


def _between(entries: "deque[_Entry] | None", since: int, until: int) -> list[_Entry]:
    found: list[_Entry] = []
    for entry in reversed(entries or ()):
        if entry.pos <= since:
            break
        if entry.pos <= until:
            found.append(entry)
    found.reverse()
    return found
