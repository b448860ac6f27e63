"""The states of a room's branches, for an event that is judged: before it, and what it changes.

Owns which states are resolved for it, the snapshot of the state before it, and what users lose by
it though no event says so (`resets.py` judges that). A room may have thousands of ends: only those
whose states differ are resolved. It decides nothing about the event.
"""

from collections.abc import Collection, Sequence

from homeserver.matrix.authgraph import AuthGraph
from homeserver.rooms.at_hand import AtHand, Changed
from homeserver.rooms.checks import CREATE, Missing
from homeserver.rooms.head import Needs
from homeserver.rooms.resets import LevelsMissing, Lineage, Loss, is_suspicious, losses
from homeserver.rooms.send import Sending
from homeserver.rooms.snapshots import SnapshotChain
from homeserver.rooms.states import State, States
from homeserver.streams.numbers import Numbers
from storage.changes import Insert
from storage.engine import Database
from storage.events import event_rows

_NOTHING: State = {}


class Branches:
    """See the module. `told` are the ids of the state before the event where a server has said it,
    for what stands before the event can't be had.
    """

    def __init__(
        self,
        database: Database,
        states: States,
        at_hand: AtHand,
        told: Collection[str] | None = None,
    ) -> None:
        self._database = database
        self._states = states
        self._at_hand = at_hand
        self._told = told
        self._after: dict[int, State] = {}
        self._resolved: dict[tuple[int, ...], State] = {}
        self._chains: dict[int, tuple[SnapshotChain, State]] = {}
        self._graph: AuthGraph | None = None

    @property
    def is_told(self) -> bool:
        """Whether a server has said what the state before the event is."""
        return self._told is not None

    def before(self, prevs: Sequence[int], missing: Missing) -> State | None:
        """The state before the event, which stands behind `prevs`.

        None where it was told and can't be the one: it has not what authorises the event.
        """
        if self._told is not None and missing.prev:
            state = self._told_state(self._told)
            return state if self._is_before(state) else None
        if not prevs:
            return _NOTHING  # the create event
        states = self._states_after(prevs)
        return self._resolution([states[nid] for nid in prevs], tuple(prevs))

    def changed(
        self, before: State, nid: int, extremities: Sequence[tuple[int, str]], *, linear: bool
    ) -> Changed:
        """What accepting the event as number `nid` does to the room's current state.

        `extremities` are the room's ends behind it, itself the last; `linear`: it is the only one.
        """
        at_hand, event = self._at_hand, self._at_hand.event
        head = at_hand.head
        key_nid = None
        if event.state_key is not None:
            key_nid = head.names.key_nid(event.type, event.state_key)
        if linear:
            return {} if key_nid is None else {key_nid: (head.state.get(key_nid), nid)}
        after = before if key_nid is None else {**before, key_nid: nid}
        others = self._distinct(extremities[:-1])
        if others:
            states = self._states_after(others)
            after = self._resolution(
                [after, *(states[other] for other in others)],
                (nid, *others),
                (nid, at_hand.auths()),
            )
        return {
            key: (head.state.get(key), after.get(key))
            for key in head.state.keys() | after.keys()
            if head.state.get(key) != after.get(key)
        }

    def losses(self, changed: Changed, nid: int) -> list[Loss]:
        """What users lose by a change of the current state that no event speaks of."""
        at_hand, event = self._at_hand, self._at_hand.event
        known = {nid: event}
        for number in {one for step in changed.values() for one in step}:
            if number is not None and number != nid:
                known[number] = at_hand.known(number)
        suspicious = {
            key: (old, new)
            for key, (old, new) in changed.items()
            if old is not None
            and is_suspicious(known[old], None if new is None else known[new], event)
        }
        if not suspicious:
            return []
        if self._graph is None:

            async def load() -> None:
                self._graph = await self._states.graph(at_hand.head.room_nid)

            raise Needs(load)
        lineage = Lineage(self._graph, (nid, at_hand.auths()))
        while True:
            try:
                return losses(suspicious, known, at_hand.head.creators(), lineage)
            except LevelsMissing as missing:
                at_hand.need([missing.nid])
                known[missing.nid] = at_hand.known(missing.nid)

    def snapshot(
        self, sending: Sending, prevs: Sequence[int], state: State, numbers: Numbers
    ) -> tuple[int, bool]:
        """The number of a snapshot of the state before the event; a new one where none fits.

        Whether it is new, and the state is known to follow `prevs`.
        """
        head = self._at_hand.head
        known = head.behind.get(tuple(sorted(prevs))) if self._told is None else None
        if known is not None:
            return known, False
        base = self._at_hand.row(prevs[0]).snap_nid if prevs else None
        if base is None:
            chain, held = SnapshotChain(), _NOTHING
        else:
            chain, held = self._chain(base)
        changed = {
            key: (held.get(key), state.get(key))
            for key in held.keys() | state.keys()
            if held.get(key) != state.get(key)
        }
        if base is not None and not changed:
            return base, False
        nid = numbers.take("snapshot")
        sending.changes.append(Insert(chain.add(nid, head.room_nid, state, changed)))
        # The chain has moved on: whoever needs the same base again reads it anew.
        self._chains.clear()
        return nid, self._told is None

    def _told_state(self, ids: Collection[str]) -> State:
        """A state given by the ids of its events."""
        at_hand = self._at_hand
        rows = [at_hand.row(at_hand.shelf.nids[id_]) for id_ in ids]
        return {
            row.key_nid: row.event_nid
            for row in rows
            if row.key_nid is not None and not at_hand.is_rejected(row.event_nid)
        }

    def _is_before(self, state: State) -> bool:
        """Whether a state that was told has the room's beginning and what authorises the event.

        Without this a server could have honest events rejected by what it leaves out.
        """
        at_hand = self._at_hand
        return at_hand.head.names.key_nid(*CREATE) in state and all(
            state.get(row.key_nid) == row.event_nid
            for row in (at_hand.row(nid) for nid in at_hand.auths())
            if row.key_nid is not None
        )

    def _resolution(
        self,
        states: list[State],
        name: tuple[int, ...],
        new: tuple[int, list[int]] | None = None,
    ) -> State:
        """The resolution of states; `new` is the event's (number, auth events) if it is in one."""
        if all(state == states[0] for state in states[1:]):
            return states[0]
        if name not in self._resolved:
            event, room_nid = self._at_hand.event, self._at_hand.head.room_nid

            async def load() -> None:
                self._resolved[name] = await self._states.resolved(
                    room_nid, event.rules, states, None if new is None else (event, *new)
                )

            raise Needs(load)
        return self._resolved[name]

    def _distinct(self, ends: Sequence[tuple[int, str]]) -> list[int]:
        """One of all the room's ends that have the same state after them.

        A room may have thousands of ends that differ in nothing.
        """
        marks = self._at_hand.head.marks
        try:
            return list({marks[end]: end for end, _ in ends}.values())
        except KeyError:
            missing = [end for end, _ in ends if end not in marks]

        async def load() -> None:
            for end, row in (await event_rows(self._database, missing)).items():
                marks[end] = (row.snap_nid, None if row.key_nid is None else end)

        raise Needs(load)

    def _states_after(self, nids: Sequence[int]) -> dict[int, State]:
        missing = [nid for nid in nids if nid not in self._after]
        if missing:

            async def load() -> None:
                self._after |= await self._states.after(missing)

            raise Needs(load)
        return self._after

    def _chain(self, snap_nid: int) -> tuple[SnapshotChain, State]:
        found = self._chains.get(snap_nid)
        if found is None:

            async def load() -> None:
                chain = await SnapshotChain.load(self._database, snap_nid)
                states = await self._states.of_snapshots([snap_nid])
                self._chains[snap_nid] = (chain, states[snap_nid])

            raise Needs(load)
        return found
