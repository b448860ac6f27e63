"""The last stretch of the stream in memory, ready to be sent.

Owns the entries of the positions in (`floor`, `pos`], bounded by bytes, indexed by room, by user
and by device. Invariant: a reader whose position is at or above `floor` finds here everything that
happened since; below it must read the database. It keeps no state of any room or client.
"""

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from homeserver.rooms.views import EventView

# What an entry costs beyond its own bytes: objects and index slots.
_ENTRY_OVERHEAD = 600
_MOVE_BYTES = 200
_MESSAGE_BYTES = 200


@dataclass(frozen=True, slots=True)
class StateChange:
    """The value of one state key of a room before and after an event (event numbers)."""

    key_nid: int
    old_nid: int | None
    new_nid: int | None


class Move(NamedTuple):
    """A member's membership of a room went from `was` to `now` (JOIN, ...; LEAVE for none)."""

    room_nid: int
    user_nid: int
    was: int
    now: int


@dataclass(frozen=True, slots=True)
class EventEntry:
    """An event of a room's timeline, the state that changed with it and the members that moved.

    `mentioned` are local users (numbers); `thread` is the id of the root of the event's thread.
    """

    pos: int
    view: EventView
    changes: tuple[StateChange, ...]
    moves: tuple[Move, ...] = ()
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


@dataclass(frozen=True, slots=True)
class MessagesEntry:
    """To-device messages that came together: by the device's number, JSON as /sync shows it."""

    pos: int
    messages: Mapping[int, bytes]

    @property
    def size(self) -> int:
        """The bytes of all of them, and what each costs beyond that."""
        return sum(map(len, self.messages.values())) + _MESSAGE_BYTES * len(self.messages)


@dataclass(frozen=True, slots=True)
class DeviceListEntry:
    """A user's devices or signing keys have changed; `only_for` a user, if one alone may see it."""

    pos: int
    user_nid: int
    only_for: int | None = None


RoomEntry = EventEntry | ReceiptEntry
_Entry = TypeVar(
    "_Entry", EventEntry | ReceiptEntry, AccountDataEntry, MessagesEntry, DeviceListEntry
)
_Kind = Literal["room", "user", "messages", "list"]


class Ring:
    """See the module. All calls happen on the loop, in stream order."""

    def __init__(self, max_bytes: int, pos: int) -> None:
        self.pos = pos
        self.floor = pos
        self.stirred = pos
        """The last position at which anybody came or went, or changed keys; `pos` at first."""
        self._max_bytes = max_bytes
        self._bytes = 0
        self._order: deque[tuple[int, int, _Kind, int]] = deque()  # pos, size, kind, number
        self._rooms: dict[int, deque[RoomEntry]] = {}
        self._users: dict[int, deque[AccountDataEntry]] = {}
        self._devices: dict[int, deque[MessagesEntry]] = {}
        self._messages: deque[MessagesEntry] = deque()
        self._lists: dict[int, deque[DeviceListEntry]] = {}
        self._views: dict[int, EventView] = {}

    def add_event(self, entry: EventEntry) -> None:
        """Append an event; its `pos` must be the next one."""
        view = entry.view
        self._rooms.setdefault(view.room_nid, deque()).append(entry)
        self._views[view.nid] = view
        if entry.moves:
            self.stirred = entry.pos
        size = len(view.body) + len(view.extra) + _MOVE_BYTES * len(entry.moves)
        self._grow(entry.pos, size, "room", view.room_nid)

    def add_receipt(self, entry: ReceiptEntry) -> None:
        """Append a receipt."""
        self._rooms.setdefault(entry.room_nid, deque()).append(entry)
        self._grow(entry.pos, 0, "room", entry.room_nid)

    def add_account_data(self, entry: AccountDataEntry) -> None:
        """Append account data."""
        self._users.setdefault(entry.user_nid, deque()).append(entry)
        self._grow(entry.pos, len(entry.content), "user", entry.user_nid)

    def add_messages(self, entry: MessagesEntry) -> None:
        """Append the to-device messages of a position."""
        self._messages.append(entry)
        devices = self._devices
        for device_nid in entry.messages:
            entries = devices.get(device_nid)
            if entries is None:
                devices[device_nid] = deque((entry,))
            else:
                entries.append(entry)
        self._grow(entry.pos, entry.size, "messages", 0)

    def add_device_list(self, entry: DeviceListEntry) -> None:
        """Append a change of a user's devices."""
        self._lists.setdefault(0, deque()).append(entry)
        self.stirred = entry.pos
        self._grow(entry.pos, 0, "list", 0)

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
        self._devices.clear()
        self._messages.clear()
        self._lists.clear()
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
            for pos, _, kind, room_nid in reversed(self._order):
                if pos <= since:
                    break
                if kind == "room" and room_nid in rooms:
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

    def messages(self, device_nid: int, since: int, until: int) -> list[tuple[int, bytes]]:
        """Positions and JSON of a device's messages in (since, until], oldest first."""
        entries = _between(self._devices.get(device_nid), since, until)
        return [(entry.pos, entry.messages[device_nid]) for entry in entries]

    def device_lists(self, since: int, until: int) -> list[DeviceListEntry]:
        """Changes of users' devices in (since, until], oldest first."""
        return _between(self._lists.get(0), since, until)

    def _grow(self, pos: int, size: int, kind: _Kind, number: int) -> None:
        self.pos = pos
        size += _ENTRY_OVERHEAD
        self._bytes += size
        self._order.append((pos, size, kind, number))
        while self._bytes > self._max_bytes and self._order:
            self._shrink()

    def _shrink(self) -> None:
        pos, size, kind, number = self._order.popleft()
        self._bytes -= size
        self.floor = pos
        if kind == "messages":
            for device_nid in self._messages.popleft().messages:
                _drop_first(self._devices, device_nid)
            return
        shelves: dict[_Kind, dict[int, deque[Any]]] = {
            "room": self._rooms,
            "user": self._users,
            "list": self._lists,
        }
        gone = _drop_first(shelves[kind], number)
        if isinstance(gone, EventEntry):
            self._views.pop(gone.view.nid, None)


def _drop_first(shelf: "dict[int, deque[_Entry]]", number: int) -> _Entry:
    entries = shelf[number]
    gone = entries.popleft()
    if not entries:
        del shelf[number]
    return gone


def _between(entries: "deque[_Entry] | None", since: int, until: int) -> list[_Entry]:
    found: list[_Entry] = []
    if not entries or entries[-1].pos <= since:
        return found
    for entry in reversed(entries):
        if entry.pos <= since:
            break
        if entry.pos <= until:
            found.append(entry)
    found.reverse()
    return found
