"""The head of a room: what must be in memory to add the next event.

Owns forward extremities, depth, the current state, member counts and the chain of snapshots of one
active room, and how an event that was accepted changes them. Invariant: the head is the state after
everything submitted to the commit queue; when a commit fails it is thrown away and loaded anew. It
is touched only by its room's actor. It does not decide what may be sent (`send.py`).
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

from homeserver.matrix.auth import creators, power_levels
from homeserver.matrix.event import Event
from homeserver.matrix.powerlevels import PowerLevels
from homeserver.matrix.versions import RoomRules
from homeserver.rooms.snapshots import SnapshotChain
from homeserver.streams.numbers import Names
from storage.packing import pack_numbers
from storage.schema import RoomSummaryRow

_EVENTS_KEPT = 256


Mark = tuple[int | None, int | None]
"""The snapshot before an event, and the event's number where it is state."""


class Needs(Exception):
    """Something must be read first; `load()` does so, in the room's turn."""

    def __init__(self, load: Callable[[], Awaitable[None]]) -> None:
        super().__init__("something must be read first")
        self.load = load


class EventsMissing(Exception):
    """These events of the room (numbers) must be loaded into the head first."""

    def __init__(self, nids: Iterable[int]) -> None:
        super().__init__("events are not in memory")
        self.nids = frozenset(nids)


class ServersMissing(Exception):
    """How many users of these servers are in the room must be known first."""

    def __init__(self, servers: Iterable[str]) -> None:
        super().__init__("the servers of a room are not in memory")
        self.servers = frozenset(servers)


class StickyMissing(Exception):
    """Which of our events in the room are sticky must be known first."""


@dataclass(slots=True)
class Head:
    """See the module. `state` maps key numbers to event numbers.

    `servers` has how many users of another server are joined, for those that were asked about;
    `sticky` until when our own sticky events last, once anybody has asked.
    What never changes once it is written is kept of a few events: in `behind` the snapshot of the
    state that follows some events together, in `marks` of the room's ends the snapshot before each
    and, where that adds to it, the event itself: ends with one mark have one state after them.
    """

    room_nid: int
    room_id: str
    rules: RoomRules
    names: Names
    extremities: list[tuple[int, str]]
    depth: int
    state: dict[int, int]
    summary: RoomSummaryRow
    snapshots: SnapshotChain
    events: "OrderedDict[int, Event]" = field(default_factory=OrderedDict)
    strangers: set[str] = field(default_factory=set)
    servers: dict[str, int] = field(default_factory=dict)
    sticky: dict[int, int] | None = None
    behind: "OrderedDict[tuple[int, ...], int]" = field(default_factory=OrderedDict)
    marks: dict[int, Mark] = field(default_factory=dict)
    packed: tuple[list[tuple[int, str]], bytes] = ([], b"")

    def event_nid(self, type: str, state_key: str) -> int | None:  # noqa: A002
        """The number of the current state event of a key. Raises `NamesMissing`."""
        return self.state.get(self.names.key_nid(type, state_key))

    def event(self, type: str, state_key: str = "") -> Event | None:  # noqa: A002
        """The current state event of a key. Raises `NamesMissing` or `EventsMissing`."""
        nid = self.event_nid(type, state_key)
        return None if nid is None else self.loaded(nid)

    def loaded(self, nid: int) -> Event:
        """An event of the room by number. Raises `EventsMissing`."""
        found = self.events.get(nid)
        if found is None:
            raise EventsMissing((nid,))
        self.events.move_to_end(nid)
        return found

    def remember(self, events: Mapping[int, Event]) -> None:
        """Keep these events in memory (the least used go)."""
        self.events.update(events)
        while len(self.events) > _EVENTS_KEPT:
            self.events.popitem(last=False)

    def packed_ends(self) -> bytes:
        """The numbers of the room's ends, packed; only what has been added since the last time.

        The list is never changed, only replaced.
        """
        listed, packed = self.packed
        if self.extremities[: len(listed)] != listed:
            listed, packed = [], b""
        packed += pack_numbers(nid for nid, _ in self.extremities[len(listed) :])
        self.packed = (self.extremities, packed)
        return packed

    def follows(self, prevs: tuple[int, ...], snap_nid: int) -> None:
        """Keep in mind which snapshot has the state that follows these events together."""
        self.behind[prevs] = snap_nid
        if len(self.behind) > _EVENTS_KEPT:
            self.behind.popitem(last=False)

    def mark(self, nid: int, mark: Mark) -> None:
        """Keep the mark of an end of the room; those of events that are ends no more go."""
        self.marks[nid] = mark
        if len(self.marks) > 2 * len(self.extremities) + _EVENTS_KEPT:
            ends = {end for end, _ in self.extremities}
            self.marks = {end: kept for end, kept in self.marks.items() if end in ends}

    def membership(self, user_id: str) -> str | None:
        """The user's current membership, None where there never was any."""
        found = self.event("m.room.member", user_id)
        if found is None:
            return None
        value = found.content.get("membership")
        return value if isinstance(value, str) else None

    def power_levels(self) -> PowerLevels:
        """The current power levels, with the defaults where there is no event."""
        return power_levels(self.event)

    def creators(self) -> frozenset[str]:
        """The users whom this room version holds to be creators."""
        create = self.event("m.room.create")
        return creators(create) if create is not None else frozenset()

    def content_text(self, type: str, name: str) -> str | None:  # noqa: A002
        """A text in the content of a state event with an empty state key, None if absent."""
        found = self.event(type)
        value = found.content.get(name) if found is not None else None
        return value if isinstance(value, str) and value else None
