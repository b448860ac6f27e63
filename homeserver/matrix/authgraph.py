"""The auth events of one room as packed arrays, and what state resolution asks of them.

Owns the edges from each state event to its auth events, by number. Invariant: events are added in
rising order of their numbers and parents are lower, so number order is a topological order, and
every question is one pass over the arrays instead of a search. About 30 bytes an event.
It holds no events, and knows of types only which events are the room's power levels.
"""

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from itertools import repeat


class AuthGraph:
    """The auth edges of a room's state events; `nid` is an event's number."""

    __slots__ = ("_edges", "_ends", "_nids", "_power_levels")

    def __init__(self) -> None:
        self._nids = array("q")
        self._edges = array("I")  # places of the parents of all events, one after the other
        self._ends = array("I", (0,))  # the edges of place i are _edges[_ends[i]:_ends[i + 1]]
        self._power_levels = bytearray()

    def __len__(self) -> int:
        return len(self._nids)

    def __contains__(self, nid: int) -> bool:
        place = bisect_left(self._nids, nid)
        return place < len(self._nids) and self._nids[place] == nid

    def add(self, nid: int, parents: Iterable[int], *, power_levels: bool) -> None:
        """Add an event above all others.

        `parents` are its auth events; those that the graph doesn't hold are left out (only a
        rejected event can name such). `power_levels`: its key is ("m.room.power_levels", "").
        Raises ValueError if the number isn't the highest.
        """
        nids = self._nids
        if nids and nid <= nids[-1]:
            raise ValueError(f"event {nid} is added after {nids[-1]}")
        edges = self._edges
        for parent in parents:
            place = bisect_left(nids, parent)
            if place < len(nids) and nids[place] == parent:
                edges.append(place)
        nids.append(nid)
        self._ends.append(len(edges))
        self._power_levels.append(power_levels)

    def parents(self, nid: int) -> list[int]:
        """The auth events of an event; KeyError if the graph doesn't hold it."""
        nids = self._nids
        return [nids[place] for place in self._parents(self._place(nid))]

    def power_levels_of(self, nid: int) -> int | None:
        """The power levels event among the auth events of an event."""
        for place in self._parents(self._place(nid)):
            if self._power_levels[place]:
                return self._nids[place]
        return None

    def is_power_levels(self, nid: int) -> bool:
        """Whether an event is a power levels event; KeyError if the graph doesn't hold it."""
        return bool(self._power_levels[self._place(nid)])

    def reaches(self, nid: int, other: int) -> bool:
        """Whether `other` is in the auth chain of an event; KeyError if the graph lacks that."""
        wanted = bisect_left(self._nids, other)
        waiting = [self._place(nid)]
        seen: set[int] = set()
        while waiting:
            for parent in self._parents(waiting.pop()):
                if parent == wanted:
                    return self._nids[parent] == other
                if parent > wanted and parent not in seen:
                    seen.add(parent)
                    waiting.append(parent)
        return False

    def difference(self, sets: Sequence[Iterable[int]], common: Iterable[int] = ()) -> set[int]:
        """The auth difference of state sets.

        The events that are in the auth chain of some set but not of every one, where a set's chain
        includes the set itself. `common` are events in all the sets, which needn't be repeated in
        each. KeyError if the graph lacks a member of `sets`. spec: rooms/v12#definitions
        """
        every = (1 << len(sets)) - 1
        masks: bytearray | list[int]
        masks = bytearray(len(self)) if len(sets) <= 8 else [0] * len(self)
        lowest = len(self)
        for number, members in enumerate(sets):
            for place in self._places(members):
                masks[place] |= 1 << number
                lowest = min(lowest, place)
        if lowest == len(self):
            return set()
        in_all = common if isinstance(common, set) else set(common)
        edges, ends, nids = self._edges, self._ends, self._nids
        found = set()
        # Downwards, each event's mask is complete when the event is reached. Below the lowest one
        # that only some of the sets have marked so far, nothing can differ any more.
        end = len(edges)
        for place in range(len(nids) - 1, -1, -1):
            start = ends[place]
            mask = masks[place]
            if mask == every or nids[place] in in_all:
                for parent in edges[start:end]:
                    masks[parent] = every
            elif mask:
                found.add(nids[place])
                for parent in edges[start:end]:
                    mark = masks[parent] | mask
                    masks[parent] = mark
                    if parent < lowest and mark != every and nids[parent] not in in_all:
                        lowest = parent
            if place <= lowest:
                break
            end = start
        return found

    def conflicted_subgraph(self, nids: Collection[int]) -> set[int]:
        """All events on a path between two of the given ones, and these themselves.

        KeyError if the graph lacks one. spec: rooms/v12#definitions
        """
        ends = self._places(nids)
        if not ends:
            return set()
        lowest, highest = min(ends), max(ends)
        below = bytearray(highest + 1)
        for place in ends:
            below[place] = 1
        for place in range(highest, lowest, -1):
            if below[place]:
                for parent in self._parents(place):
                    below[parent] = 1
        above = bytearray(highest + 1)
        for place in ends:
            above[place] = 1
        for place in range(lowest, highest + 1):
            if below[place] and not above[place]:
                above[place] = any(above[parent] for parent in self._parents(place))
        return {self._nids[place] for place in range(lowest, highest + 1) if above[place]}

    def _parents(self, place: int) -> Sequence[int]:
        return self._edges[self._ends[place] : self._ends[place + 1]]

    def _place(self, nid: int) -> int:
        place = bisect_left(self._nids, nid)
        if place == len(self._nids) or self._nids[place] != nid:
            raise KeyError(nid)
        return place

    def _places(self, nids: Iterable[int]) -> list[int]:
        wanted = list(nids)
        places = list(map(bisect_left, repeat(self._nids), wanted))
        if wanted and max(places) == len(self._nids):
            raise KeyError(max(wanted))
        held = list(map(self._nids.__getitem__, places))
        if held != wanted:
            raise KeyError(next(nid for nid, have in zip(wanted, held, strict=True) if nid != have))
        return places
