"""The verbs by which an event from another server gets its place in a room, or none.

Owns the order of the steps: what is known already, what is missing (`checks.lacking`), the state
before it (`branches.py`), the numbered checks (`checks.check`), what it changes of the room's ends
and state, and its rows. What a verb must read it asks for by `Needs`, and it is run again: what is
found is kept in `AtHand` and `Branches`, nothing else is.
"""

import enum
from collections.abc import Sequence
from dataclasses import replace

from homeserver.matrix.event import Event
from homeserver.rooms.append import Place
from homeserver.rooms.at_hand import AtHand, Changed
from homeserver.rooms.branches import Branches
from homeserver.rooms.checks import (
    Failed,
    Missing,
    Unasked,
    allowed_by_auth_events,
    check,
    lacking,
)
from homeserver.rooms.received_rows import (
    came,
    emptied_by,
    event_row,
    hold_back,
    redacted_by,
    redacts,
    store_outside,
)
from homeserver.rooms.resets import Loss
from homeserver.rooms.send import Sending
from homeserver.rooms.states import State
from homeserver.streams.numbers import Numbers
from storage.changes import Insert, Put
from storage.packing import unpack_numbers
from storage.schema import (
    LINEAR,
    OUTLIER,
    REDACTED,
    REJECTED,
    SOFT_FAILED,
    MissingPrevRow,
    RedactionRow,
)

# How many soft-failed or rejected events are walked through to find what an event stands behind.
_MAX_WALK = 100


class Verdict(enum.Enum):
    """What became of an event."""

    KNOWN = "known"
    ACCEPTED = "accepted"
    SOFT_FAILED = "soft-failed"
    REJECTED = "rejected"


class Judging:
    """One event that is judged: `run` is the verb.

    `accepted_flags` are those of its row if it is accepted; `asked`: the room's policy server was,
    so that what it has not signed is soft-failed.
    """

    def __init__(
        self,
        at_hand: AtHand,
        branches: Branches,
        accepted_flags: int = 0,
        *,
        asked: bool = False,
    ) -> None:
        self._at_hand = at_hand
        self._branches = branches
        self._accepted_flags = accepted_flags
        self._asked = asked
        self._following: tuple[tuple[int, ...], int] | None = None
        self.lost: list[Loss] = []
        """What users lose by the event though no event says so."""
        self.held = False
        """Whether it is a sticky event that has no place among what is new."""

    @property
    def event(self) -> Event:
        """The event."""
        return self._at_hand.event

    @property
    def nid(self) -> int:
        """Its number, once it was judged."""
        return self._at_hand.own

    def run(self, sending: Sending, pdu: bytes, numbers: Numbers) -> Verdict | Missing | Unasked:
        """Judge the event and store it; `pdu` is its canonical JSON."""
        # An earlier run may have broken off, or not have been committed.
        self.lost, self._following = [], None
        at_hand, head, event = self._at_hand, sending.head, self._at_hand.event
        nids = at_hand.begin(head).nids
        stored = nids.get(event.event_id)
        if stored is not None and at_hand.is_placed(stored):
            return Verdict.KNOWN
        # What it lacks.
        missing = lacking(at_hand)
        if missing.auth or (missing.prev and not self._branches.is_told):
            return missing
        # The state before it.
        prevs = [nids[id_] for id_ in dict.fromkeys(event.prev_event_ids) if id_ in nids]
        linear = len(prevs) == len(head.extremities) and not missing.prev
        linear = linear and set(prevs) == {nid for nid, _ in head.extremities}
        before = head.state if linear else self._branches.before(prevs, missing)
        if before is None:
            return missing
        # The numbered checks.
        failed = check(at_hand, before, sending.policy, linear=linear, asked=self._asked)
        if isinstance(failed, Unasked):
            return failed
        # What it changes.
        place = self._place(sending, stored, prevs, before, failed, numbers, linear=linear)
        self._store(sending, place, missing, failed, pdu)
        if failed is None:
            return Verdict.ACCEPTED
        return Verdict.REJECTED if failed.flags & REJECTED else Verdict.SOFT_FAILED

    def _place(
        self,
        sending: Sending,
        stored: int | None,
        prevs: list[int],
        before: State,
        failed: Failed | None,
        numbers: Numbers,
        *,
        linear: bool,
    ) -> Place:
        """Where the event stands, and what it changes of the room by that."""
        at_hand, head, branches = self._at_hand, self._at_hand.head, self._branches
        nid = at_hand.number(stored, numbers)
        changed: Changed = {}
        extremities: Sequence[tuple[int, str]] = head.extremities
        # What others stand behind already has had its effect on the room's state.
        if failed is None and not at_hand.awaited:
            extremities = _ends_behind(at_hand, prevs, nid)
            changed = branches.changed(before, nid, extremities, linear=linear)
        named = {known for step in changed.values() for known in step}
        at_hand.need([known for known in named if known is not None and known != nid])
        if linear:
            snap_nid = head.snapshots.nid
        else:
            self.lost = branches.losses(changed, nid)
            snap_nid, is_new = branches.snapshot(sending, prevs, before, numbers)
            if is_new:
                self._following = (tuple(sorted(prevs)), snap_nid)
        allowed = self._accepted_flags | (LINEAR if linear else 0)
        flags = allowed if failed is None else failed.flags
        because = redacted_by(at_hand)
        return Place(
            nid=nid,
            stored=stored is not None,
            prevs=prevs,
            extremities=extremities,
            snap_nid=snap_nid,
            changed=changed,
            events=at_hand.events,
            flags=flags if because is None else flags | REDACTED,
            because=because,
        )

    def _store(
        self, sending: Sending, place: Place, missing: Missing, failed: Failed | None, pdu: bytes
    ) -> None:
        """Write the event, and move the room on if it is accepted."""
        at_hand, head, event = self._at_hand, self._at_hand.head, self._at_hand.event
        redacted = redacts(at_hand)
        if failed is None:
            sending.place(event, pdu, at_hand.auths(), place, redacted)
        else:
            place = self._store_failed(sending, place, failed, pdu)
        if self._following is not None:
            head.follows(*self._following)
        shelf = at_hand.shelf
        sending.changes.extend(
            Insert(MissingPrevRow(head.room_nid, id_, place.nid))
            for id_ in missing.prev
            if id_ not in shelf.nids
        )
        sending.changes.extend(came(head.room_nid, event.event_id, place.nid, at_hand.awaited))
        shelf.add(event_row(at_hand, place))
        if event.redacts is not None:
            shelf.redacted_by.setdefault(event.redacts, []).append(place.nid)

    def _store_failed(self, sending: Sending, place: Place, failed: Failed, pdu: bytes) -> Place:
        """Keep an event that the room's timeline has no place for; how it is stored."""
        at_hand, event = self._at_hand, self._at_hand.event
        is_soft = bool(failed.flags & SOFT_FAILED)
        by = emptied_by(at_hand) if is_soft else None
        if by is not None:
            place = replace(place, flags=place.flags | REDACTED)
            sending.changes.append(Put(RedactionRow(at_hand.head.room_nid, event.event_id, by)))
        store_outside(sending, at_hand, place, pdu)
        if failed is Failed.CURRENT_STATE and not place.flags & REDACTED:
            self.held = hold_back(sending, event, place.nid)
        return place


def run_outlier(at_hand: AtHand, sending: Sending, pdu: bytes, numbers: Numbers) -> bool | None:
    """The verb for an event that authorises others: it is kept without a place in the timeline.

    Whether the rules allow it by its auth events; None where these are not all stored.
    """
    nids = at_hand.begin(sending.head).nids
    event = at_hand.event
    stored = nids.get(event.event_id)
    if stored is not None:
        return not at_hand.is_rejected(stored)
    if any(id_ not in nids for id_ in event.auth_event_ids):
        return None
    is_allowed = allowed_by_auth_events(at_hand)
    place = Place(
        nid=at_hand.number(None, numbers),
        stored=False,
        prevs=(),
        extremities=(),
        snap_nid=None,
        changed={},
        events={},
        flags=OUTLIER if is_allowed else OUTLIER | REJECTED,
    )
    store_outside(sending, at_hand, place, pdu)
    return is_allowed


def _ends_behind(at_hand: AtHand, prevs: Sequence[int], nid: int) -> list[tuple[int, str]]:
    """The room's ends after the event: itself, and those that it doesn't stand behind."""
    head = at_hand.head
    behind = set(prevs)
    ends = {end for end, _ in head.extremities}
    open_ends = [prev for prev in prevs if prev not in ends]
    walked = 0
    while open_ends and walked < _MAX_WALK:
        walked += 1
        row = at_hand.row(open_ends.pop())
        if row.flags & (SOFT_FAILED | REJECTED):
            older = [prev for prev in unpack_numbers(row.prevs) if prev not in behind]
            behind.update(older)
            open_ends.extend(older)
    own = (nid, at_hand.event.event_id)
    if behind.isdisjoint(ends):
        return [*head.extremities, own]
    return [*(end for end in head.extremities if end[0] not in behind), own]
