"""Stored events as `Event` objects, redacted where a redaction took effect."""

from collections.abc import Collection

from homeserver.matrix import canonical
from homeserver.matrix.event import Event
from homeserver.matrix.redact import redact
from homeserver.matrix.versions import RoomRules
from storage.engine import Database
from storage.events import StoredEvent, events
from storage.schema import OUTLIER, REDACTED, REJECTED


async def load_events(
    database: Database, nids: Collection[int], rules: RoomRules
) -> dict[int, Event]:
    """Events of rooms of one version by number; numbers that don't exist are absent."""
    if not nids:
        return {}
    stored = await events(database, nids)
    return {nid: event_of(found, rules) for nid, found in stored.items()}


def has_no_place(flags: int) -> bool:
    """Whether a stored event may still get a place in its room's timeline, told as state or to
    authorise others.
    """
    return flags & (OUTLIER | REJECTED) == OUTLIER


def event_of(stored: StoredEvent, rules: RoomRules) -> Event:
    """The event of a stored row."""
    pdu = canonical.decode_object(stored.json)
    if stored.row.flags & REDACTED:
        pdu = redact(pdu, rules)
    return Event.stored(pdu, rules, stored.row.event_id)
