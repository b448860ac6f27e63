"""The state before and after any event of a room, and the resolution of several.

Owns the states in memory (decoded snapshots) and the auth graphs of rooms that had forks. States
map key numbers to event numbers and are shared: who changes one copies it. A resolution of a large
room runs in a thread. It writes nothing.
spec: rooms/v2#state-resolution
"""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence

from homeserver.matrix.authgraph import AuthGraph
from homeserver.matrix.event import Event
from homeserver.matrix.resolve import Needed, resolve
from homeserver.matrix.versions import RoomRules
from homeserver.rooms.snapshots import load_states
from homeserver.rooms.stored import load_events
from homeserver.streams.numbers import Names
from storage.engine import Database
from storage.events import auth_edges, event_rows
from storage.packing import unpack_numbers
from storage.schema import REJECTED

State = Mapping[int, int]

_POWER_LEVELS = ("m.room.power_levels", "")
_MAX_ENTRIES = 2_000_000
_MAX_GRAPHS = 100
# From this many entries on, resolving is left to a thread.
_LARGE = 5_000


class States:
    """See the module."""

    def __init__(self, database: Database, names: Names) -> None:
        self._database = database
        self._names = names
        self._snapshots: OrderedDict[int, State] = OrderedDict()
        self._entries = 0
        self._graphs: OrderedDict[int, tuple[AuthGraph, int]] = OrderedDict()

    async def of_snapshots(self, snap_nids: Collection[int]) -> dict[int, State]:
        """States of snapshots by number."""
        found = {nid: self._snapshots[nid] for nid in snap_nids if nid in self._snapshots}
        missing = [nid for nid in snap_nids if nid not in found]
        if missing:
            for nid, state in (await load_states(self._database, missing)).items():
                found[nid] = state
                self._keep(nid, state)
        return found

    async def after(self, event_nids: Collection[int]) -> dict[int, State]:
        """States after events that have one before them; a rejected event changes nothing."""
        rows = await event_rows(self._database, event_nids)
        before = await self.of_snapshots(
            {row.snap_nid for row in rows.values() if row.snap_nid is not None}
        )
        states: dict[int, State] = {}
        for nid, row in rows.items():
            state = before[row.snap_nid] if row.snap_nid is not None else {}
            if row.key_nid is not None and not row.flags & REJECTED:
                state = {**state, row.key_nid: nid}
            states[nid] = state
        return states

    async def resolved(
        self,
        room_nid: int,
        rules: RoomRules,
        states: Sequence[State],
        new: tuple[Event, int, Sequence[int]] | None = None,
    ) -> State:
        """The resolution of states of one room.

        `new` is an event that is in one of them and not stored yet: itself, its number, the numbers
        of its auth events.
        """
        if all(state == states[0] for state in states[1:]):
            return states[0]
        graph = await self.graph(room_nid)
        events: dict[int, Event] = {}
        if new is not None:
            event, nid, auths = new
            events[nid] = event
            if event.is_state and nid not in graph:
                graph.add(nid, auths, power_levels=event.key == _POWER_LEVELS)
        keys: dict[tuple[str, str], int | None] = {}
        large = max(len(state) for state in states) > _LARGE
        while True:
            try:
                if large:
                    return await asyncio.to_thread(resolve, rules, states, graph, events, keys)
                return resolve(rules, states, graph, events, keys)
            except Needed as needed:
                events.update(await load_events(self._database, needed.nids, rules))
                await self._names.load(keys=needed.keys)
                keys.update((key, self._names.key_nid(*key)) for key in needed.keys)

    async def graph(self, room_nid: int) -> AuthGraph:
        """The auth graph of the room's state events, as far as they are stored."""
        await self._names.load(keys=[_POWER_LEVELS])
        levels = self._names.key_nid(*_POWER_LEVELS)
        graph, last = self._graphs.get(room_nid, (AuthGraph(), 0))
        for nid, key_nid, auths in await auth_edges(self._database, room_nid, last):
            if nid not in graph:
                graph.add(nid, unpack_numbers(auths), power_levels=key_nid == levels)
            last = nid
        self._graphs[room_nid] = (graph, last)
        self._graphs.move_to_end(room_nid)
        if len(self._graphs) > _MAX_GRAPHS:
            self._graphs.popitem(last=False)
        return graph

    def _keep(self, nid: int, state: State) -> None:
        self._snapshots[nid] = state
        self._entries += len(state)
        while self._entries > _MAX_ENTRIES and len(self._snapshots) > 1:
            _, gone = self._snapshots.popitem(last=False)
            self._entries -= len(gone)
