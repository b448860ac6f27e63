"""Sticky events: for how long an event is one.

An event says so itself, beside its content, so that it may be encrypted; a redaction takes it away.
spec: MSC4354
"""

from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import Event

STICKY = "msc4354_sticky"
MAX_MS = 3_600_000


def members_of(duration: int) -> JsonObject:
    """What stands in an event that is to be sticky for so many ms."""
    return {STICKY: {"duration_ms": duration}}


def duration_of(event: Event) -> int | None:
    """For how many ms the event wants to be sticky, at most an hour; None for one that isn't."""
    said = event.pdu.get(STICKY)
    duration = said.get("duration_ms") if isinstance(said, dict) else None
    if not isinstance(duration, int) or isinstance(duration, bool) or duration < 0:
        return None
    return min(duration, MAX_MS)


def sticky_until(event: Event, received: int) -> int | None:
    """Until when (ms) the event is sticky that came at `received`; None if it is no more then."""
    duration = duration_of(event)
    if duration is None:
        return None
    # What an event says of its own time can't make it begin later than it came.
    until = min(received, event.origin_server_ts) + duration
    return until if until > received else None
