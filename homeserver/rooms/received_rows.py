"""The rows of events from other servers, as far as they are not those of an event at the head.

Owns how an event without a place in the timeline is kept, and whom it redacts or is redacted by
where one of the two came late. What an event at the head changes is `append.py`'s.
"""

from collections.abc import Sequence

from homeserver.matrix.auth import power_levels
from homeserver.matrix.event import Event
from homeserver.matrix.ids import server_of
from homeserver.matrix.sticky import sticky_until
from homeserver.rooms.append import Place
from homeserver.rooms.at_hand import AtHand
from homeserver.rooms.head import Head
from homeserver.rooms.redact_events import is_redactable, redacts_events
from homeserver.rooms.send import Sending
from storage.changes import Change, Delete, Insert, Put
from storage.packing import pack_numbers
from storage.schema import REDACTED, EventChildRow, EventRow, MissingPrevRow, StickyEventRow


def event_row(at_hand: AtHand, place: Place) -> EventRow:
    """The row of the event without a position."""
    event, names = at_hand.event, at_hand.head.names
    return EventRow(
        event_nid=place.nid,
        event_id=event.event_id,
        room_nid=at_hand.head.room_nid,
        pos=None,
        depth=event.depth,
        type_nid=names.nid(event.type),
        key_nid=None if event.state_key is None else names.key_nid(*event.key),
        sender_nid=names.nid(event.sender),
        origin_ts=event.origin_server_ts,
        snap_nid=place.snap_nid,
        flags=place.flags,
        prevs=pack_numbers(place.prevs),
        auths=pack_numbers(at_hand.auths()),
    )


def json_rows(sending: Sending, event: Event, pdu: bytes, place: Place) -> list[Change]:
    """The rows of the event's canonical JSON, and of what it shows no more if it is redacted."""
    redacted = bool(place.flags & REDACTED)
    if not place.stored:
        return sending.stored_json(place.nid, pdu, redacted=redacted)
    return sending.shown_no_more(place.nid, event) if redacted else []


def store_outside(sending: Sending, at_hand: AtHand, place: Place, pdu: bytes) -> None:
    """Keep an event that has no place in the timeline."""
    row = event_row(at_hand, place)
    sending.changes.append(Put(row) if place.stored else Insert(row))
    sending.changes.extend(json_rows(sending, at_hand.event, pdu, place))
    sending.changes.extend(Insert(EventChildRow(prev, place.nid)) for prev in place.prevs)


def came(room_nid: int, event_id: str, nid: int, children: Sequence[int]) -> list[Change]:
    """`children` have waited for this event as one of those before them, and it has come."""
    changes: list[Change] = []
    for child in children:
        changes.append(Delete(MissingPrevRow, (room_nid, event_id, child)))
        changes.append(Put(EventChildRow(nid, child)))
    return changes


def hold_back(sending: Sending, event: Event, nid: int) -> bool:
    """Whether it is a sticky event, which is told apart from the timeline once the room allows it
    (MSC4354).
    """
    until = sticky_until(event, sending.now)
    if until is None:
        return False
    sending.changes.append(Put(StickyEventRow(nid, sending.head.room_nid, 0, until, 0)))
    return True


def redacts(at_hand: AtHand) -> tuple[int, Event] | None:
    """What the event redacts now."""
    event = at_hand.event
    if event.redacts is None:
        return None
    target_nid = at_hand.shelf.nids.get(event.redacts)
    if target_nid is None or at_hand.row(target_nid).flags & REDACTED:
        return None
    at_hand.need([target_nid])
    target = at_hand.known(target_nid)
    return (target_nid, target) if may_redact(at_hand.head, event, target) else None


def redacted_by(at_hand: AtHand) -> tuple[int, Event] | None:
    """What has redacted the event before it came."""
    redactions = at_hand.shelf.redacted_by.get(at_hand.event.event_id, ())
    at_hand.need(redactions)
    for nid in redactions:
        redaction = at_hand.known(nid)
        if may_redact(at_hand.head, redaction, at_hand.event):
            return nid, redaction
    return None


def emptied_by(at_hand: AtHand) -> int | None:
    """The kick or ban, now current, by which all that the sender has sent is redacted."""
    event, head = at_hand.event, at_hand.head
    nid = head.event_nid("m.room.member", event.sender)
    if nid is None or not is_redactable(event):
        return None
    return nid if redacts_events(head, head.loaded(nid)) else None


def may_redact(head: Head, redaction: Event, target: Event) -> bool:
    """Whether a redaction takes effect. spec: rooms/v3#handling-redactions"""
    if server_of(redaction.sender) == server_of(target.sender):
        return True
    levels = power_levels(head.event)
    return levels.user_level(redaction.sender) >= levels.redact
