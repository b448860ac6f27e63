"""State resolution, versions 1, 2 and 2.1: one state out of several.

Works on event numbers. Only events in conflict, their auth events and the state that these are
checked against are looked at; the rest of a big room is compared as numbers and copied. Nothing is
fetched: `Needed` says what is missing, the caller loads it and calls again, two or three times in
all. The result depends on neither the order of the states nor that of their entries.
Events rejected by their auth events must not be in the states (they never are: no state takes them
in, and whoever names them as auth event is rejected too).
"""

import hashlib
import heapq
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Generic, TypeVar

from homeserver.matrix.auth import auth_keys, authorise, creators
from homeserver.matrix.authgraph import AuthGraph
from homeserver.matrix.errors import Rejected
from homeserver.matrix.event import Event
from homeserver.matrix.powerlevels import PowerLevels
from homeserver.matrix.versions import RoomRules

K = TypeVar("K", bound=Hashable)
StateKey = tuple[str, str]
"""Type and state key."""

_CREATE = ("m.room.create", "")
_POWER_LEVELS = ("m.room.power_levels", "")
_JOIN_RULES = ("m.room.join_rules", "")


class Needed(Exception):
    """Resolution can't go on without these events (numbers) and these keys' numbers."""

    def __init__(
        self, nids: Collection[int] = frozenset(), keys: Collection[StateKey] = frozenset()
    ) -> None:
        super().__init__(f"{len(nids)} events and {len(keys)} keys are needed")
        self.nids = frozenset(nids)
        self.keys = frozenset(keys)


class PairKeys(Mapping[StateKey, StateKey | None]):
    """For states whose keys are the pairs of type and state key themselves."""

    def __getitem__(self, pair: StateKey) -> StateKey:
        return pair

    def __contains__(self, pair: object) -> bool:
        return True

    def __iter__(self) -> Iterator[StateKey]:
        return iter(())

    def __len__(self) -> int:
        return 0


PAIRS = PairKeys()


def resolve(
    rules: RoomRules,
    state_sets: Sequence[Mapping[K, int]],
    graph: AuthGraph,
    events: Mapping[int, Event],
    keys: Mapping[StateKey, K | None],
) -> dict[K, int]:
    """The resolution of states, each a mapping from key to event number.

    `graph` holds the auth chains of all of them. `events` are those at hand. `keys` gives the key
    under which the states keep a pair of type and state key, None if none can; `PAIRS` where that
    is the pair itself. Raises Needed with what `events` and `keys` lack, KeyError if the graph is
    incomplete. spec: rooms/v1#state-resolution, rooms/v2#state-resolution,
    spec: rooms/v12#state-resolution
    """
    states: list[Mapping[K, int]] = []
    for state in state_sets:
        if not any(state == other for other in states):
            states.append(state)
    if len(states) < 2:
        return dict(states[0]) if states else {}
    room = _Room(rules, states, graph, events, keys)
    if rules.state_resolution == "1":
        return _resolve_v1(room)
    return _resolve_v2(room)


class _Room(Generic[K]):
    """The states to resolve, cut into what they agree on and what not, and look-ups in them."""

    def __init__(
        self,
        rules: RoomRules,
        states: Sequence[Mapping[K, int]],
        graph: AuthGraph,
        events: Mapping[int, Event],
        keys: Mapping[StateKey, K | None],
    ) -> None:
        self.rules = rules
        self.graph = graph
        self.events = events
        self.keys = keys
        absent_conflicts = rules.state_resolution != "1"
        self.agreed, self.conflicted = _separate(states, absent_conflicts)
        self.conflicts = [
            [state[key] for key in self.conflicted if key in state] for state in states
        ]

    def need(self, nids: Iterable[int]) -> None:
        """Raise Needed unless all these events are at hand."""
        missing = [nid for nid in nids if nid not in self.events]
        if missing:
            raise Needed(nids=missing)

    def need_keys(self, pairs: Iterable[StateKey]) -> None:
        """Raise Needed unless all these pairs' keys are known."""
        missing = [pair for pair in pairs if pair not in self.keys]
        if missing:
            raise Needed(keys=missing)

    def agreed_on(self, pair: StateKey) -> int | None:
        """The event that all states have there."""
        key = self.keys[pair]
        return None if key is None else self.agreed.get(key)

    def auth_pairs(self, nid: int) -> list[StateKey]:
        """The pairs that the event is checked against."""
        event = self.events[nid]
        assert event.state_key is not None
        return auth_keys(self.rules, event.type, event.sender, event.state_key, event.content)

    def result(self, resolved: Mapping[StateKey, int]) -> dict[K, int]:
        """The agreed state, and the resolved one where it has nothing."""
        state = dict(self.agreed)
        for pair, nid in resolved.items():
            key = self.keys[pair]
            if key is None:
                raise KeyError(pair)
            state.setdefault(key, nid)
        return state


def _separate(
    states: Sequence[Mapping[K, int]], absent_conflicts: bool
) -> tuple[dict[K, int], set[K]]:
    """What the states agree on, and the keys where they don't.

    Whether a key that some states lack is in conflict depends on the version.
    """
    agreed = dict(states[0])
    conflicted: set[K] = set()
    for state in states[1:]:
        get = state.get
        added = state.keys() - agreed.keys() - conflicted
        if absent_conflicts:
            differing = [key for key, nid in agreed.items() if get(key) != nid]
            differing += added
        else:
            differing = [key for key, nid in agreed.items() if get(key, nid) != nid]
            agreed.update((key, state[key]) for key in added)
        for key in differing:
            agreed.pop(key, None)
        conflicted.update(differing)
    return agreed, conflicted


# Version 1


def _resolve_v1(room: _Room[K]) -> dict[K, int]:
    nids = {nid for members in room.conflicts for nid in members}
    room.need(nids)
    pairs = {pair for nid in nids for pair in room.auth_pairs(nid)} | {
        room.events[nid].key for nid in nids
    }
    room.need_keys(pairs)
    base = {pair: nid for pair in pairs if (nid := room.agreed_on(pair)) is not None}
    room.need(base.values())
    lists: dict[StateKey, list[int]] = {}
    for nid in nids:
        lists.setdefault(room.events[nid].key, []).append(nid)
    for members in lists.values():
        members.sort(key=lambda nid: _depth_order(room.events[nid]))

    state = {pair: room.events[nid] for pair, nid in base.items()}
    resolved: dict[StateKey, int] = {}
    for phase in range(4):
        picks = {
            pair: _pick_last(room, members, state) if phase < 3 else _pick(room, members, state)
            for pair, members in lists.items()
            if _phase(pair) == phase
        }
        resolved.update(picks)
        state.update({pair: room.events[nid] for pair, nid in picks.items()})
    return room.result(resolved)


def _phase(pair: StateKey) -> int:
    if pair == _POWER_LEVELS:
        return 0
    return {"m.room.join_rules": 1, "m.room.member": 2}.get(pair[0], 3)


def _depth_order(event: Event) -> tuple[int, int]:
    """Ascending depth, then descending hash of the id."""
    digest = hashlib.sha1(event.event_id.encode("utf-8", "surrogatepass"))
    return event.depth, -int.from_bytes(digest.digest(), "big")


def _pick_last(room: _Room[K], nids: list[int], state: Mapping[StateKey, Event]) -> int:
    """From the first event on, the last that each predecessor allows."""
    picked = nids[0]
    for nid in nids[1:]:
        pair = room.events[nid].key
        if not _allowed(room.events[nid], {**state, pair: room.events[picked]}):
            break
        picked = nid
    return picked


def _pick(room: _Room[K], nids: list[int], state: Mapping[StateKey, Event]) -> int:
    """The highest event that the state allows; the lowest one if it allows none."""
    for nid in reversed(nids):
        if _allowed(room.events[nid], state):
            return nid
    return nids[0]


def _allowed(event: Event, state: Mapping[StateKey, Event]) -> bool:
    try:
        authorise(event, lambda event_type, state_key: state.get((event_type, state_key)))
    except Rejected:
        return False
    return True


# Versions 2 and 2.1


def _resolve_v2(room: _Room[K]) -> dict[K, int]:
    conflicted = {nid for members in room.conflicts for nid in members}
    full = conflicted | room.graph.difference(room.conflicts, room.agreed.values())
    from_nothing = room.rules.state_resolution == "2.1"
    if from_nothing:
        full |= room.graph.conflicted_subgraph(conflicted)
    checks = _Checks(room, full, start_empty=from_nothing)
    power_events = checks.sort_by_power()
    checks.apply(power_events)
    checks.apply(checks.sort_by_mainline(full.difference(power_events)))
    return room.result(checks.resolved)


class _Checks(Generic[K]):
    """The state while the events of the full conflicted set are put into it one by one."""

    def __init__(self, room: _Room[K], full: set[int], *, start_empty: bool) -> None:
        room.need(full)
        parents = {nid: room.graph.parents(nid) for nid in full}
        pairs = {pair for nid in full for pair in room.auth_pairs(nid)}
        pairs.update(room.events[nid].key for nid in full)
        pairs.update((_CREATE, _POWER_LEVELS))
        auth_nids = {parent for own in parents.values() for parent in own}
        try:
            room.need_keys(pairs)
        except Needed as needed:
            missing = auth_nids.difference(room.events)
            raise Needed(nids=missing, keys=needed.keys) from None
        base = {pair: nid for pair in pairs if (nid := room.agreed_on(pair)) is not None}
        room.need({*auth_nids, *base.values()})
        self.room = room
        self.full = full
        self.resolved: dict[StateKey, int] = {}
        self._parents = parents
        self._create = self._find_create(base)
        if start_empty:
            base = {}
        self._base = base

    def _find_create(self, base: Mapping[StateKey, int]) -> Event | None:
        """The create event, which from version 12 on no event names as auth event."""
        nid = base.get(_CREATE)
        if nid is None:
            nid = min((nid for nid in self.full if self._event(nid).key == _CREATE), default=None)
        return None if nid is None else self._event(nid)

    def _event(self, nid: int) -> Event:
        return self.room.events[nid]

    def _auth_event(self, nid: int, pair: StateKey) -> Event | None:
        """The event's own auth event for a pair."""
        for parent in self._parents[nid]:
            event = self._event(parent)
            if event.key == pair:
                return event
        if pair == _CREATE and self.room.rules.room_id_is_hash:
            return self._create
        return None

    # Ordering

    def sort_by_power(self) -> list[int]:
        """The power events and what stands above them, in reverse topological power ordering.

        Above them is what is reached through events of the full conflicted set alone, as all
        servers in use have it: an event behind one on which all chains agree is left out.
        """
        above: dict[int, list[int]] = {}
        stack = [nid for nid in self.full if _is_power_event(self._event(nid))]
        while stack:
            nid = stack.pop()
            if nid not in above:
                above[nid] = [parent for parent in self._parents[nid] if parent in self.full]
                stack += above[nid]
        children: dict[int, list[int]] = {nid: [] for nid in above}
        for nid, own in above.items():
            for parent in own:
                children[parent].append(nid)
        waiting = {nid: len(own) for nid, own in above.items()}
        ready = [(*self._power_order(nid), nid) for nid, count in waiting.items() if not count]
        heapq.heapify(ready)
        ordered = []
        while ready:
            nid = heapq.heappop(ready)[-1]
            ordered.append(nid)
            for child in children[nid]:
                waiting[child] -= 1
                if not waiting[child]:
                    heapq.heappush(ready, (*self._power_order(child), child))
        return ordered

    def _power_order(self, nid: int) -> tuple[int, int, str]:
        event = self._event(nid)
        return -self._sender_level(nid, event), event.origin_server_ts, event.event_id

    def _sender_level(self, nid: int, event: Event) -> int:
        """The sender's power as the event's own auth events have it."""
        create = self._auth_event(nid, _CREATE)
        power_levels = self._auth_event(nid, _POWER_LEVELS)
        levels = PowerLevels(
            self.room.rules,
            power_levels.content if power_levels else None,
            creators(create) if create else frozenset(),
        )
        return levels.user_level(event.sender)

    def sort_by_mainline(self, nids: Collection[int]) -> list[int]:
        """Mainline ordering, based on the power levels that are resolved by now."""
        graph = self.room.graph
        mainline: list[int] = []
        nid = self.resolved.get(_POWER_LEVELS, self._base.get(_POWER_LEVELS))
        while nid is not None:
            mainline.append(nid)
            nid = graph.power_levels_of(nid)
        # From the latest (0) on; the further back, the earlier in the order.
        position: dict[int | None, int] = {nid: place for place, nid in enumerate(mainline)}
        position[None] = len(mainline)

        def order(nid: int) -> tuple[int, int, str]:
            passed: list[int] = []
            step = graph.power_levels_of(nid)
            while step not in position:
                assert step is not None
                passed.append(step)
                step = graph.power_levels_of(step)
            for other in passed:
                position[other] = position[step]
            event = self._event(nid)
            return -position[step], event.origin_server_ts, event.event_id

        return sorted(nids, key=order)

    # Iterative auth checks

    def apply(self, nids: Iterable[int]) -> None:
        """Put each event into the state if the state allows it, in this order."""
        for nid in nids:
            event = self._event(nid)
            try:
                authorise(event, partial(self._state, nid))
            except Rejected:
                continue
            self.resolved[event.key] = nid

    def _state(self, nid: int, event_type: str, state_key: str) -> Event | None:
        """What the event `nid` is checked against: the state so far, else its own auth event."""
        pair = (event_type, state_key)
        current = self.resolved.get(pair)
        if current is None:
            current = self._base.get(pair)
        return self._auth_event(nid, pair) if current is None else self._event(current)


def _is_power_event(event: Event) -> bool:
    """Whether it may take away somebody's power; the room's creation counts too."""
    if event.key in (_POWER_LEVELS, _JOIN_RULES, _CREATE):
        return True
    return (
        event.type == "m.room.member"
        and event.content.get("membership") in ("leave", "ban")
        and event.sender != event.state_key
    )
