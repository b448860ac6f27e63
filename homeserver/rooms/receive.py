"""Events from other servers: the checks on receipt, in the specification's order.

Owns the decision what becomes of an event whose signatures and hash were checked already
(`federation`): accepted into the timeline, soft-failed (kept, may be built upon, shown to nobody),
or rejected (kept so that it isn't asked for again, part of no state). What it lacks to decide it
names; it asks no other server, but for the room's policy server where only this event waits for it.
The decision is a verb: what it must read it asks for by `Needs`, and it is run again; the event is
stored in one commit.
spec: server-server-api#checks-performed-on-receipt-of-a-pdu
"""

import asyncio
import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.auth import AuthState, auth_keys, authorise, check_auth_events, power_levels
from homeserver.matrix.authgraph import AuthGraph
from homeserver.matrix.errors import Rejected
from homeserver.matrix.event import Event
from homeserver.matrix.ids import server_of
from homeserver.matrix.sign import content_hash_fits
from homeserver.matrix.sticky import sticky_until
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.append import Place
from homeserver.rooms.head import EventsMissing, Head, Needs
from homeserver.rooms.redact_events import is_redactable, redacts_events
from homeserver.rooms.resets import LevelsMissing, Lineage, Loss, Resets, is_suspicious, losses
from homeserver.rooms.send import Sending
from homeserver.rooms.snapshots import SnapshotChain
from homeserver.rooms.states import State, States
from homeserver.rooms.stored import has_no_place, load_events
from homeserver.streams.numbers import Names, Numbers
from storage.changes import Change, Delete, Insert, Put
from storage.engine import Database
from storage.events import (
    children_of_missing,
    event_numbers,
    event_rows,
    first_position,
    redactions_of,
)
from storage.memberships import in_room_of
from storage.packing import pack_numbers, unpack_numbers
from storage.schema import (
    BAN,
    LEAVE,
    LINEAR,
    LOCAL,
    OUTLIER,
    REDACTED,
    REJECTED,
    SOFT_FAILED,
    EventChildRow,
    EventRow,
    MissingPrevRow,
    RedactionRow,
    StickyEventRow,
)

_CREATE = ("m.room.create", "")
# How many soft-failed or rejected events are walked through to find what an event stands behind.
_MAX_WALK = 100
# So many events are loaded into the head, where those behind find them; more are not kept.
_FEW = 32
_NOTHING: State = {}


class Verdict(enum.Enum):
    """What became of an event."""

    KNOWN = "known"
    ACCEPTED = "accepted"
    SOFT_FAILED = "soft-failed"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Missing:
    """Ids of the auth events and previous events that must be had before an event can be judged."""

    auth: tuple[str, ...]
    prev: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unasked:
    """This policy server must be asked about an event before it can be judged."""

    server: str


@dataclass(slots=True)
class Shelf:
    """What was read of events before they are judged one after the other, so that none waits.

    `nids` and `rows` are those of every event that one of them names, as far as they are stored;
    `redacted_by` has for each of them the redactions that came before it, `awaited` those that name
    it as a previous event and came before it. What is judged is `added` while the same head lasts.
    """

    nids: dict[str, int] = field(default_factory=dict)
    rows: dict[int, EventRow] = field(default_factory=dict)
    redacted_by: dict[str, list[int]] = field(default_factory=dict)
    awaited: dict[str, list[int]] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)
    head: Head | None = None

    @classmethod
    async def read(cls, database: Database, room_nid: int, ids: Collection[str]) -> "Shelf":
        """What is stored of these events of a room."""
        nids = await event_numbers(database, room_nid, ids)
        return cls(
            nids,
            await event_rows(database, nids.values()),
            await redactions_of(database, room_nid, ids),
            await children_of_missing(database, room_nid, ids),
        )

    def stand_on(self, head: Head) -> None:
        """Forget what was added on another head: its commit has failed."""
        if self.head is not head:
            self.forget_added()
            self.head = head

    def forget_added(self) -> None:
        """Nothing of what was added is there."""
        for event_id in self.added:
            self.rows.pop(self.nids.pop(event_id), None)
        self.added.clear()

    def add(self, row: EventRow) -> None:
        """An event was judged; it is committed before anything that stands on it."""
        self.nids[row.event_id] = row.event_nid
        self.rows[row.event_nid] = row
        self.added.append(row.event_id)


class Receiver:
    """See the module."""

    def __init__(
        self,
        rooms: Rooms,
        states: States,
        database: Database,
        names: Names,
        numbers: Numbers,
        resets: Resets,
    ) -> None:
        self._rooms = rooms
        self._resets = resets
        self._held: Callable[[int], None] = _nobody
        self._states = states
        self._database = database
        self._names = names
        self._numbers = numbers

    def on_held(self, held: Callable[[int], None]) -> None:
        """Have `held(room number)` called for a sticky event that is not among what is new."""
        self._held = held

    async def receive(
        self,
        room: Room,
        event: Event,
        pdu: bytes,
        before: Collection[str] | None = None,
        *,
        relay: bool = False,
    ) -> Verdict | Missing:
        """Judge an event of the room and store it.

        `pdu` is its canonical JSON. `before` are the ids of the state before it, all of them
        stored, where its previous events can't be had: a state that has not what authorises the
        event is not the one before it, and they are still missing. `relay`: once accepted, it is
        ours to send to other servers. The room's policy server is asked where it must be. Raises
        `MatrixError` 503 when the room can't be written.
        """
        flags = LOCAL if relay else 0

        async def judged(asked: bool) -> Verdict | Missing | Unasked:
            judging = _Judging(
                self._database, self._states, self._names, event, before, flags, asked=asked
            )
            return await self._rooms.change(
                room, lambda sending: self._judged(judging, sending, room, pdu)
            )

        verdict = await judged(False)
        if not isinstance(verdict, Unasked):
            return verdict
        with suppress(MatrixError):
            event = await self._rooms.recommended(room, event)
            pdu = canonical.encode(event.pdu)
        verdict = await judged(True)
        assert not isinstance(verdict, Unasked)
        return verdict

    def _judged(
        self, judging: "_Judging", sending: Sending, room: Room, pdu: bytes
    ) -> Verdict | Missing | Unasked:
        verdict = judging.run(sending, pdu, self._numbers)
        if judging.lost:
            event, lost = judging.event, judging.lost
            sending.changes.extend(self._resets.rows(room.nid, judging.nid, lost))
            sending.published = self._resets.happened(room, event, lost)
        elif judging.held:
            sending.published = lambda _: self._held(room.nid)
        return verdict

    async def receive_all(
        self, room: Room, events: Sequence[tuple[Event, bytes]]
    ) -> list[Verdict | Missing | Unasked | Exception]:
        """`receive` for events in an order in which each may stand behind those before it.

        What they name is read at once and they are committed together where they can be. An event
        that can't be stored has the exception in its place. Policy servers are not asked.
        """
        shelf = await self._shelf(room, [event for event, _ in events])

        async def one(event: Event, pdu: bytes) -> Verdict | Missing | Unasked | Exception:
            judging = _Judging(self._database, self._states, self._names, event, None, shelf=shelf)
            try:
                return await self._rooms.change(
                    room, lambda sending: self._judged(judging, sending, room, pdu)
                )
            except Exception as error:
                return error

        return await asyncio.gather(*(one(event, pdu) for event, pdu in events))

    async def store_history(self, room: Room, events: Sequence[tuple[Event, bytes]]) -> int:
        """Put events before everything that is in the room's timeline, the newest first.

        Each is checked against its own auth events, all of which are stored; others are left out.
        They change nothing of what the room is now: what they did is in the state that came with
        our join. Returns how many have a place now.
        """
        shelf = await self._shelf(room, [event for event, _ in events])
        first = min(0, await first_position(self._database, room.nid))
        gone = await self._gone(room, {event.sender for event, _ in events})
        judgings = [
            (_Judging(self._database, self._states, self._names, event, None, shelf=shelf), pdu)
            for event, pdu in events
        ]
        stored = dict(shelf.nids)
        rows = dict(shelf.rows)

        def verb(sending: Sending) -> int:
            # It may be run again: then nothing of this has happened.
            shelf.nids, shelf.rows = dict(stored), dict(rows)
            shelf.added.clear()
            later = _Later()
            pos = first
            for judging, pdu in judgings:
                is_gone = judging.event.sender in gone
                if judging.run_history(sending, pdu, self._numbers, pos - 1, later, is_gone):
                    pos -= 1
            if any(judging.held for judging, _ in judgings):
                sending.published = lambda _: self._held(room.nid)
            sending.changes.extend(
                Put(MissingPrevRow(room.nid, event_id, child))
                for event_id, named_by in later.children.items()
                for child in named_by
            )
            return first - pos

        return await self._rooms.change(room, verb)

    async def _shelf(self, room: Room, events: Sequence[Event]) -> Shelf:
        await self._names.load(
            {text for event in events for text in (event.type, event.sender)},
            {event.key for event in events if event.is_state},
        )
        ids = {id_ for event in events for id_ in _named(event)}
        return await Shelf.read(self._database, room.nid, ids)

    async def _gone(self, room: Room, senders: Collection[str]) -> frozenset[str]:
        """Those of the senders who have left the room or are banned: few, mostly."""
        nids = await self._names.nids(senders)
        members = await in_room_of(self._database, room.nid, nids.values())
        left = {nid for nid, row in members.items() if row.membership in (LEAVE, BAN)}
        return frozenset(user_id for user_id, nid in nids.items() if nid in left)

    async def store_outliers(
        self, room: Room, events: Collection[tuple[Event, bytes]]
    ) -> dict[str, bool]:
        """Store auth events without a place in the timeline, in an order in which each one's auth
        events come before it or are stored already.

        Each is checked against its own auth events. Returns by id whether the rules allow it; an
        event whose auth events are absent is left out.
        """
        allowed: dict[str, bool] = {}
        for event, pdu in events:
            judging = _Judging(self._database, self._states, self._names, event, ())

            def verb(
                sending: Sending, judging: "_Judging" = judging, pdu: bytes = pdu
            ) -> bool | None:
                return judging.run_outlier(sending, pdu, self._numbers)

            found = await self._rooms.change(room, verb)
            if found is not None:
                allowed[event.event_id] = found
        return allowed


@dataclass(slots=True)
class _Later:
    """Of the events placed so far in a walk back: redactions by target, and by each absent previous
    event those that name it.
    """

    redactions: dict[str, Event] = field(default_factory=dict)
    children: dict[str, list[int]] = field(default_factory=dict)


class _Judging:
    """What is known while one event is judged; filled step by step, never across events."""

    def __init__(
        self,
        database: Database,
        states: States,
        names: Names,
        event: Event,
        before: Collection[str] | None,
        accepted_flags: int = 0,
        *,
        shelf: Shelf | None = None,
        asked: bool = False,
    ) -> None:
        """`asked`: the room's policy server was, so that what it has not signed is soft-failed."""
        self._asked = asked
        self._accepted_flags = accepted_flags
        self._shelf = shelf
        self._database = database
        self._states = states
        self._names = names
        self._event = event
        self._before = before
        self._events: dict[int, Event] = {}
        self._after: dict[int, State] = {}
        self._resolved: dict[tuple[int, ...], State] = {}
        self._chains: dict[int, tuple[SnapshotChain, State]] = {}
        self._own: int | None = None
        self._room_nid = 0
        self._graph: AuthGraph | None = None
        self._following: tuple[tuple[int, ...], int] | None = None
        self.lost: list[Loss] = []
        """What users lose by the event though no event says so."""
        self.held = False
        """Whether it is a sticky event that has no place among what is new."""

    @property
    def event(self) -> Event:
        """The event."""
        return self._event

    @property
    def nid(self) -> int:
        """Its number, once it was judged."""
        assert self._own is not None
        return self._own

    def run(self, sending: Sending, pdu: bytes, numbers: Numbers) -> Verdict | Missing | Unasked:
        event, head = self._event, sending.head
        shelf = self._stored(head)
        nids = shelf.nids
        self._start_anew()
        own = nids.get(event.event_id)
        if own is not None and not self._row(own).flags & OUTLIER:
            return Verdict.KNOWN
        missing = Missing(
            tuple(id_ for id_ in event.auth_event_ids if id_ not in nids),
            # The state behind some events is not known: as previous events they are missing, too.
            tuple(
                id_
                for id_ in event.prev_event_ids
                if id_ not in nids or _is_stateless(self._row(nids[id_]))
            ),
        )
        if missing.auth or (missing.prev and self._before is None):
            return missing
        prevs = [nids[id_] for id_ in dict.fromkeys(event.prev_event_ids) if id_ in nids]
        linear = len(prevs) == len(head.extremities) and not missing.prev
        linear = linear and set(prevs) == {nid for nid, _ in head.extremities}
        state = head.state if linear else self._state_before(prevs, missing.prev)
        if missing.prev and not self._is_before(state, nids):
            return missing
        flags = self._judge(head, nids, state, linear)
        refused = False
        policy = None if flags else sending.policy()
        if policy is not None and not policy.recommends(event):
            # Check 7 of the specification.
            if not self._asked:
                return Unasked(policy.server)
            flags = SOFT_FAILED
            refused = True
        nid = self._number(own, numbers)
        changed: Mapping[int, tuple[int | None, int | None]] = {}
        extremities = head.extremities
        awaited = shelf.awaited.get(event.event_id, ())
        # What others stand behind already has had its effect on the room's state.
        if not flags & (REJECTED | SOFT_FAILED) and not awaited:
            extremities = self._extremities(head, prevs, nid)
            changed = self._changed(head, state, nid, extremities, linear=linear)
        named = {known for step in changed.values() for known in step}
        self._need_events(head, [known for known in named if known is not None and known != nid])
        auths = [nids[id_] for id_ in event.auth_event_ids]
        if not linear:
            self.lost = self._losses(head, changed, nid, auths)
        snap_nid = head.snapshots.nid if linear else self._snapshot(sending, prevs, state, numbers)
        redacted, because = self._redactions(head)
        by = self._emptied(head) if flags & SOFT_FAILED else None
        place = Place(
            nid=nid,
            stored=own is not None,
            prevs=prevs,
            extremities=extremities,
            snap_nid=snap_nid,
            changed=changed,
            events=self._events,
            flags=flags
            | (0 if flags else self._accepted_flags)
            | (LINEAR if linear and not flags else 0)
            | (0 if because is None and by is None else REDACTED),
            because=because,
        )
        if by is not None:
            sending.changes.append(Put(RedactionRow(head.room_nid, event.event_id, by)))
        verdict = Verdict.ACCEPTED
        if flags & (REJECTED | SOFT_FAILED):
            self._store_outside(sending, place, auths, pdu)
            verdict = Verdict.REJECTED if flags & REJECTED else Verdict.SOFT_FAILED
            if flags & SOFT_FAILED and not refused and not place.flags & REDACTED:
                self._hold_back(sending, nid)
        else:
            sending.place(event, pdu, auths, place, redacted)
        if self._following is not None:
            head.follows(*self._following)
        sending.changes.extend(
            Insert(MissingPrevRow(head.room_nid, id_, nid))
            for id_ in missing.prev
            if id_ not in nids
        )
        for child in awaited:
            sending.changes.append(Delete(MissingPrevRow, (head.room_nid, event.event_id, child)))
            sending.changes.append(Put(EventChildRow(nid, child)))
        shelf.add(self._event_row(sending.head.room_nid, place, auths))
        if event.redacts is not None:
            shelf.redacted_by.setdefault(event.redacts, []).append(nid)
        return verdict

    def _hold_back(self, sending: Sending, nid: int) -> None:
        """A sticky event is told apart from the timeline once the room allows it (MSC4354)."""
        until = sticky_until(self._event, sending.now)
        if until is not None:
            row = StickyEventRow(nid, sending.head.room_nid, 0, until, 0)
            sending.changes.append(Put(row))
            self.held = True

    def _start_anew(self) -> None:
        """Forget what an earlier run has left, which broke off or could not be committed."""
        self.lost = []
        self._following = None

    def run_outlier(self, sending: Sending, pdu: bytes, numbers: Numbers) -> bool | None:
        event, head = self._event, sending.head
        nids = self._stored(head).nids
        own = nids.get(event.event_id)
        if own is not None:
            return not self._row(own).flags & REJECTED
        if any(id_ not in nids for id_ in event.auth_event_ids):
            return None
        flags = self._check_by_auth_events(head, nids)
        place = Place(
            nid=self._number(None, numbers),
            stored=False,
            prevs=(),
            extremities=(),
            snap_nid=None,
            changed={},
            events={},
            flags=flags | OUTLIER,
        )
        auths = [nids[id_] for id_ in event.auth_event_ids]
        self._store_outside(sending, place, auths, pdu)
        return not flags

    def run_history(
        self,
        sending: Sending,
        pdu: bytes,
        numbers: Numbers,
        pos: int,
        later: "_Later",
        is_gone: bool,
    ) -> bool:
        """Place the event at `pos`; `later` are those that were placed just before it.

        `is_gone`: its sender is in the room no more; perhaps all that they sent is redacted.
        """
        event, head = self._event, sending.head
        shelf = self._stored(head)
        own = shelf.nids.get(event.event_id)
        if own is not None and not self._row(own).flags & OUTLIER:
            return False
        if any(id_ not in shelf.nids for id_ in event.auth_event_ids):
            return False
        flags = self._check_by_auth_events(head, shelf.nids)
        redactions = shelf.redacted_by.get(event.event_id, ())
        self._need_events(head, redactions)
        known = [self._known(head, by) for by in redactions]
        if event.event_id in later.redactions:
            known.append(later.redactions[event.event_id])
        by = self._emptied(head) if is_gone else None
        if by is not None or any(_may_redact(head, redaction, event) for redaction in known):
            flags |= REDACTED
        elif not content_hash_fits(event.pdu):
            # What our users may not see of it was left out: it only holds the graph together.
            flags |= SOFT_FAILED
        nid = self._number(own, numbers)
        prevs = [shelf.nids[id_] for id_ in event.prev_event_ids if id_ in shelf.nids]
        place = Place(
            nid=nid,
            stored=own is not None,
            prevs=prevs,
            extremities=(),
            snap_nid=None,
            changed={},
            events={},
            flags=flags,
        )
        auths = [shelf.nids[id_] for id_ in event.auth_event_ids]
        row = self._event_row(head.room_nid, place, auths)
        if not flags & (REJECTED | SOFT_FAILED):
            row = row._replace(pos=pos)
        changes: list[Change] = [Put(row)]
        redacted = bool(flags & REDACTED)
        if own is None:
            changes += sending.stored_json(nid, pdu, redacted=redacted)
        elif redacted:
            changes += sending.shown_no_more(nid, event)
        if not flags & (REJECTED | SOFT_FAILED | REDACTED):
            self._hold_back(sending, nid)
        changes.extend(Put(EventChildRow(prev, nid)) for prev in prevs)
        for id_ in event.prev_event_ids:
            prev = shelf.nids.get(id_)
            if prev is None or has_no_place(self._row(prev).flags):
                later.children.setdefault(id_, []).append(nid)
        for child in shelf.awaited.get(event.event_id, ()):
            changes.append(Delete(MissingPrevRow, (head.room_nid, event.event_id, child)))
            changes.append(Put(EventChildRow(nid, child)))
        changes += [
            Put(EventChildRow(nid, child)) for child in later.children.pop(event.event_id, ())
        ]
        if by is not None:
            changes.append(Put(RedactionRow(head.room_nid, event.event_id, by)))
        if event.redacts is not None:
            changes.append(Put(RedactionRow(head.room_nid, event.redacts, nid)))
            later.redactions[event.redacts] = event
        sending.changes.extend(changes)
        shelf.add(row)
        return not flags & (REJECTED | SOFT_FAILED)

    def _number(self, own: int | None, numbers: Numbers) -> int:
        """The event's number, the same however often the verb is run."""
        if self._own is None:
            self._own = own if own is not None else numbers.take("event")
        return self._own

    # --- the checks

    def _judge(self, head: Head, nids: Mapping[str, int], state: State, linear: bool) -> int:
        """0, REJECTED or SOFT_FAILED: checks 4 to 6 of the specification."""
        flags = self._check_by_auth_events(head, nids)
        if flags:
            return flags
        try:
            authorise(self._event, self._lookup(head, state))
        except Rejected:
            return REJECTED
        if not linear:
            try:
                authorise(self._event, self._lookup(head, head.state))
            except Rejected:
                return SOFT_FAILED
        return 0

    def _check_by_auth_events(self, head: Head, nids: Mapping[str, int]) -> int:
        event = self._event
        wanted = [nids[id_] for id_ in event.auth_event_ids]
        self._need_events(head, wanted)
        auths = [self._known(head, nid) for nid in wanted]
        rejected = {
            auth.event_id
            for nid, auth in zip(wanted, auths, strict=True)
            if self._row(nid).flags & REJECTED
        }
        by_key = {auth.key: auth for auth in auths if auth.is_state}

        def state(type_: str, state_key: str) -> Event | None:
            found = by_key.get((type_, state_key))
            if found is None and (type_, state_key) == _CREATE:
                # From version 12 on the room's id names it.
                return head.event(*_CREATE)
            return found

        try:
            check_auth_events(event, auths, rejected)
            authorise(event, state)
        except Rejected:
            return REJECTED
        return 0

    def _lookup(self, head: Head, state: State) -> AuthState:
        """Events of a state by key, those that authorising the event looks at being loaded."""
        event = self._event
        keys = auth_keys(event.rules, event.type, event.sender, event.state_key, event.content)
        wanted = [state.get(self._names.key_nid(*key)) for key in (*keys, _CREATE)]
        self._need_events(head, [nid for nid in wanted if nid is not None])

        def look(type_: str, state_key: str) -> Event | None:
            nid = state.get(self._names.key_nid(type_, state_key))
            return None if nid is None else self._known(head, nid)

        return look

    # --- states

    def _state_before(self, prevs: list[int], missing: Collection[str]) -> State:
        if self._before is not None and missing:
            return self._state_of(self._before)
        if not prevs:
            return _NOTHING  # the create event
        states = self._states_after(prevs)
        return self._resolution([states[nid] for nid in prevs], tuple(prevs))

    def _state_of(self, ids: Collection[str]) -> State:
        """A state given by the ids of its events."""
        nids = [self._nid(id_) for id_ in ids]
        rows = [self._row(nid) for nid in nids]
        return {
            row.key_nid: row.event_nid
            for row in rows
            if row.key_nid is not None and not row.flags & REJECTED
        }

    def _is_before(self, state: State, nids: Mapping[str, int]) -> bool:
        """Whether a state that was told has the room's beginning and what authorises the event.

        Without this a server could have honest events rejected by what it leaves out.
        """
        return self._names.key_nid(*_CREATE) in state and all(
            state.get(row.key_nid) == row.event_nid
            for row in (self._row(nids[id_]) for id_ in self._event.auth_event_ids)
            if row.key_nid is not None
        )

    def _changed(
        self,
        head: Head,
        before: State,
        nid: int,
        extremities: list[tuple[int, str]],
        *,
        linear: bool,
    ) -> Mapping[int, tuple[int | None, int | None]]:
        """What accepting the event does to the room's current state."""
        event = self._event
        key_nid = None
        if event.state_key is not None:
            key_nid = self._names.key_nid(event.type, event.state_key)
        if linear:
            return {} if key_nid is None else {key_nid: (head.state.get(key_nid), nid)}
        after = before if key_nid is None else {**before, key_nid: nid}
        others = self._distinct(head, extremities[:-1])
        if others:
            states = self._states_after(others)
            auths = [self._nid(id_) for id_ in event.auth_event_ids]
            after = self._resolution(
                [after, *(states[other] for other in others)], (nid, *others), (nid, auths)
            )
        return {
            key: (head.state.get(key), after.get(key))
            for key in head.state.keys() | after.keys()
            if head.state.get(key) != after.get(key)
        }

    def _losses(
        self,
        head: Head,
        changed: Mapping[int, tuple[int | None, int | None]],
        nid: int,
        auths: Sequence[int],
    ) -> list[Loss]:
        """What users lose by a change of the current state that no event speaks of."""
        event = self._event
        known = {nid: event}
        for number in {one for step in changed.values() for one in step}:
            if number is not None and number != nid:
                known[number] = self._known(head, number)
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
                self._graph = await self._states.graph(self._room_nid)

            raise Needs(load)
        lineage = Lineage(self._graph, (nid, auths))
        while True:
            try:
                return losses(suspicious, known, head.creators(), lineage)
            except LevelsMissing as missing:
                self._need_events(head, [missing.nid])
                known[missing.nid] = self._known(head, missing.nid)

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

            async def load() -> None:
                self._resolved[name] = await self._states.resolved(
                    self._room_nid,
                    self._event.rules,
                    states,
                    None if new is None else (self._event, *new),
                )

            raise Needs(load)
        return self._resolved[name]

    def _distinct(self, head: Head, ends: Sequence[tuple[int, str]]) -> list[int]:
        """One of all the room's ends that have the same state after them.

        A room may have thousands of ends that differ in nothing.
        """
        marks = head.marks
        try:
            return list({marks[end]: end for end, _ in ends}.values())
        except KeyError:
            missing = [end for end, _ in ends if end not in marks]

        async def load() -> None:
            for end, row in (await event_rows(self._database, missing)).items():
                marks[end] = (row.snap_nid, None if row.key_nid is None else end)

        raise Needs(load)

    def _states_after(self, nids: list[int]) -> Mapping[int, State]:
        missing = [nid for nid in nids if nid not in self._after]
        if missing:

            async def load() -> None:
                self._after |= await self._states.after(missing)

            raise Needs(load)
        return self._after

    def _snapshot(self, sending: Sending, prevs: list[int], state: State, numbers: Numbers) -> int:
        """The number of a snapshot of the state before the event; a new one where none fits."""
        behind = tuple(sorted(prevs))
        known = sending.head.behind.get(behind) if self._before is None else None
        if known is not None:
            return known
        base = self._row(prevs[0]).snap_nid if prevs else None
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
            return base
        nid = numbers.take("snapshot")
        if self._before is None:
            self._following = (behind, nid)
        sending.changes.append(Insert(chain.add(nid, sending.head.room_nid, state, changed)))
        # The chain has moved on: whoever needs the same base again reads it anew.
        self._chains.clear()
        return nid

    def _chain(self, snap_nid: int) -> tuple[SnapshotChain, State]:
        found = self._chains.get(snap_nid)
        if found is None:

            async def load() -> None:
                chain = await SnapshotChain.load(self._database, snap_nid)
                states = await self._states.of_snapshots([snap_nid])
                self._chains[snap_nid] = (chain, states[snap_nid])

            raise Needs(load)
        return found

    # --- the graph

    def _extremities(self, head: Head, prevs: list[int], nid: int) -> list[tuple[int, str]]:
        """The room's ends after the event: itself, and those that it doesn't stand behind."""
        behind = set(prevs)
        ends = {end for end, _ in head.extremities}
        open_ends = [prev for prev in prevs if prev not in ends]
        walked = 0
        while open_ends and walked < _MAX_WALK:
            walked += 1
            row = self._row(open_ends.pop())
            if row.flags & (SOFT_FAILED | REJECTED):
                older = [prev for prev in unpack_numbers(row.prevs) if prev not in behind]
                behind.update(older)
                open_ends.extend(older)
        own = (nid, self._event.event_id)
        if behind.isdisjoint(ends):
            return [*head.extremities, own]
        return [*(end for end in head.extremities if end[0] not in behind), own]

    def _redactions(self, head: Head) -> tuple[tuple[int, Event] | None, tuple[int, Event] | None]:
        """What the event redacts now, and what has redacted it before it came."""
        event = self._event
        redacted: tuple[int, Event] | None = None
        if event.redacts is not None:
            target_nid = self._find(event.redacts)
            if target_nid is not None and not self._row(target_nid).flags & REDACTED:
                self._need_events(head, [target_nid])
                target = self._known(head, target_nid)
                if _may_redact(head, event, target):
                    redacted = (target_nid, target)
        redacted_by = self._stored(head).redacted_by.get(event.event_id, ())
        self._need_events(head, redacted_by)
        for by in redacted_by:
            redaction = self._known(head, by)
            if _may_redact(head, redaction, event):
                return redacted, (by, redaction)
        return redacted, None

    def _emptied(self, head: Head) -> int | None:
        """The kick or ban, now current, by which all that the sender has sent is redacted."""
        nid = head.event_nid("m.room.member", self._event.sender)
        if nid is None or not is_redactable(self._event):
            return None
        return nid if redacts_events(head, head.loaded(nid)) else None

    def _store_outside(self, sending: Sending, place: Place, auths: list[int], pdu: bytes) -> None:
        """Keep an event that has no place in the timeline."""
        row = self._event_row(sending.head.room_nid, place, auths)
        rows: list[Change] = [Put(row)]
        if not place.stored:
            redacted = bool(place.flags & REDACTED)
            rows = [Insert(row), *sending.stored_json(place.nid, pdu, redacted=redacted)]
        elif place.flags & REDACTED:
            rows += sending.shown_no_more(place.nid, self._event)
        rows.extend(Insert(EventChildRow(prev, place.nid)) for prev in place.prevs)
        sending.changes.extend(rows)

    def _event_row(self, room_nid: int, place: Place, auths: list[int]) -> EventRow:
        """The row of the event without a position."""
        event, names = self._event, self._names
        return EventRow(
            event_nid=place.nid,
            event_id=event.event_id,
            room_nid=room_nid,
            pos=None,
            depth=event.depth,
            type_nid=names.nid(event.type),
            key_nid=None if event.state_key is None else names.key_nid(*event.key),
            sender_nid=names.nid(event.sender),
            origin_ts=event.origin_server_ts,
            snap_nid=place.snap_nid,
            flags=place.flags,
            prevs=pack_numbers(place.prevs),
            auths=pack_numbers(auths),
        )

    # --- what is at hand

    def _stored(self, head: Head) -> Shelf:
        """What is stored of the events that this one names."""
        self._room_nid = head.room_nid
        shelf = self._shelf
        if shelf is None:

            async def load() -> None:
                ids = {*_named(self._event), *(self._before or ())}
                self._shelf = await Shelf.read(self._database, head.room_nid, ids)

            raise Needs(load)
        shelf.stand_on(head)
        return shelf

    def _find(self, event_id: str) -> int | None:
        return self._shelf.nids.get(event_id) if self._shelf is not None else None

    def _nid(self, event_id: str) -> int:
        assert self._shelf is not None
        return self._shelf.nids[event_id]

    def _row(self, nid: int) -> EventRow:
        assert self._shelf is not None
        rows = self._shelf.rows
        found = rows.get(nid)
        if found is None:

            async def load() -> None:
                rows.update(await event_rows(self._database, [nid]))

            raise Needs(load)
        return found

    def _need_events(self, head: Head, nids: Collection[int]) -> None:
        missing = [nid for nid in nids if nid not in head.events and nid not in self._events]
        if not missing:
            return
        if len(missing) <= _FEW:
            # The head keeps them for the events behind this one, too.
            raise EventsMissing(missing)

        async def load() -> None:
            self._events |= await load_events(self._database, missing, self._event.rules)

        raise Needs(load)

    def _known(self, head: Head, nid: int) -> Event:
        return self._events.get(nid) or head.loaded(nid)


def _named(event: Event) -> set[str]:
    """The ids of the event and of those that it names."""
    named = {event.event_id, *event.auth_event_ids, *event.prev_event_ids}
    if event.redacts is not None:
        named.add(event.redacts)
    return named


def _is_stateless(row: EventRow) -> bool:
    """Whether the state before an event is not known: an outlier, or history that was fetched."""
    return bool(row.flags & OUTLIER) or (row.snap_nid is None and (row.pos or 0) < 0)


def _may_redact(head: Head, redaction: Event, target: Event) -> bool:
    """Whether a redaction takes effect. spec: rooms/v3#handling-redactions"""
    if server_of(redaction.sender) == server_of(target.sender):
        return True
    levels = power_levels(head.event)
    return levels.user_level(redaction.sender) >= levels.redact


def _nobody(room_nid: int) -> None:
    """Nobody wants to know which sticky events are held back."""
