"""The verb that puts history from other servers before everything in a room's timeline.

Owns the walk back: each event is checked against its own auth events and gets the next position
below. It changes nothing of what the room is now: what these events did is in the state that came
with our join. See docs/decisions/009.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from homeserver.matrix.event import Event
from homeserver.matrix.sign import content_hash_fits
from homeserver.rooms.append import Place
from homeserver.rooms.at_hand import AtHand, Shelf
from homeserver.rooms.checks import allowed_by_auth_events
from homeserver.rooms.received_rows import (
    came,
    emptied_by,
    event_row,
    hold_back,
    json_rows,
    may_redact,
    redacted_by,
)
from homeserver.rooms.send import Sending
from homeserver.rooms.stored import has_no_place
from homeserver.streams.numbers import Numbers
from storage.changes import Change, Put
from storage.engine import Database
from storage.schema import (
    REDACTED,
    REJECTED,
    SOFT_FAILED,
    EventChildRow,
    MissingPrevRow,
    RedactionRow,
)


@dataclass(slots=True)
class _Later:
    """Of the events placed so far in a walk back: redactions by target, and by each absent previous
    event those that name it.
    """

    redactions: dict[str, Event] = field(default_factory=dict)
    children: dict[str, list[int]] = field(default_factory=dict)


class Backfilled:
    """Events with their canonical JSON, the newest first; `run` is the verb.

    `shelf` has what is stored of those that they name, `first` is the lowest position in the room
    or 0. `gone` are senders who are in the room no more: perhaps all that they sent is redacted.
    """

    def __init__(
        self,
        database: Database,
        events: Sequence[tuple[Event, bytes]],
        shelf: Shelf,
        first: int,
        gone: Collection[str],
    ) -> None:
        self._events = [(AtHand(database, event, shelf), pdu) for event, pdu in events]
        self._shelf = shelf
        self._stored, self._rows = dict(shelf.nids), dict(shelf.rows)
        self._first = first
        self._gone = gone
        self.held = False
        """Whether one of them is a sticky event, which has no place among what is new."""

    def run(self, sending: Sending, numbers: Numbers) -> int:
        """Store the events; how many have a place now."""
        shelf = self._shelf
        # It may be run again: then nothing of this has happened.
        shelf.nids, shelf.rows = dict(self._stored), dict(self._rows)
        shelf.added.clear()
        later = _Later()
        pos = self._first
        for at_hand, pdu in self._events:
            if self._place(sending, at_hand, pdu, numbers, pos - 1, later):
                pos -= 1
        sending.changes.extend(
            Put(MissingPrevRow(sending.head.room_nid, event_id, child))
            for event_id, named_by in later.children.items()
            for child in named_by
        )
        return self._first - pos

    def _place(
        self,
        sending: Sending,
        at_hand: AtHand,
        pdu: bytes,
        numbers: Numbers,
        pos: int,
        later: _Later,
    ) -> bool:
        """Whether the event has its place at `pos`; `later` are those placed just before it."""
        event, head = at_hand.event, sending.head
        nids = at_hand.begin(head).nids
        stored = nids.get(event.event_id)
        if stored is not None and at_hand.is_placed(stored):
            return False
        if any(id_ not in nids for id_ in event.auth_event_ids):
            return False
        by = emptied_by(at_hand) if event.sender in self._gone else None
        flags = 0 if allowed_by_auth_events(at_hand) else REJECTED
        if by is not None or _is_redacted(at_hand, later):
            flags |= REDACTED
        elif not content_hash_fits(event.pdu):
            # What our users may not see of it was left out: it only holds the graph together.
            flags |= SOFT_FAILED
        place = Place(
            nid=at_hand.number(stored, numbers),
            stored=stored is not None,
            prevs=[nids[id_] for id_ in event.prev_event_ids if id_ in nids],
            extremities=(),
            snap_nid=None,
            changed={},
            events={},
            flags=flags,
        )
        row = event_row(at_hand, place)
        is_shown = not flags & (REJECTED | SOFT_FAILED)
        if is_shown:
            row = row._replace(pos=pos)
        changes: list[Change] = [Put(row), *json_rows(sending, event, pdu, place)]
        changes += self._edges(at_hand, place, later)
        if by is not None:
            changes.append(Put(RedactionRow(head.room_nid, event.event_id, by)))
        if event.redacts is not None:
            changes.append(Put(RedactionRow(head.room_nid, event.redacts, place.nid)))
            later.redactions[event.redacts] = event
        sending.changes.extend(changes)
        if is_shown and not flags & REDACTED and hold_back(sending, event, place.nid):
            self.held = True
        self._shelf.add(row)
        return is_shown

    def _edges(self, at_hand: AtHand, place: Place, later: _Later) -> list[Change]:
        """What stands before the event, and what behind it."""
        event, nid, nids = at_hand.event, place.nid, self._shelf.nids
        changes: list[Change] = [Put(EventChildRow(prev, nid)) for prev in place.prevs]
        for id_ in event.prev_event_ids:
            prev = nids.get(id_)
            if prev is None or has_no_place(at_hand.row(prev).flags):
                later.children.setdefault(id_, []).append(nid)
        changes += came(at_hand.head.room_nid, event.event_id, nid, at_hand.awaited)
        changes += [
            Put(EventChildRow(nid, child)) for child in later.children.pop(event.event_id, ())
        ]
        return changes


def _is_redacted(at_hand: AtHand, later: _Later) -> bool:
    """Whether the event was redacted before it came, by what is stored or is placed with it."""
    event = at_hand.event
    redaction = later.redactions.get(event.event_id)
    if redaction is not None and may_redact(at_hand.head, redaction, event):
        return True
    return redacted_by(at_hand) is not None
