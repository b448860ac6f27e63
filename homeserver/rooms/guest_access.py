"""Whether a room lets guests in, and the job that a room's change of mind leaves.

The job's work is in `guests.py`. spec: client-server-api#guest-access
"""

from homeserver.matrix.canonical import encode
from homeserver.matrix.event import Event
from homeserver.rooms.head import Head
from storage.changes import Change, Insert
from storage.schema import JobRow

JOB = "guests_leave"
_TYPE = "m.room.guest_access"


def lets_guests_in(head: Head) -> bool:
    """Whether guests may join. Raises `EventsMissing`."""
    return head.content_text(_TYPE, "guest_access") == "can_join"


def turns_guests_away(before: Event | None, after: Event | None) -> bool:
    """Whether guests were let in, and are no more, by this change of a piece of state."""
    if before is None or before.type != _TYPE or before.state_key != "":
        return False
    then, now = (
        event is not None and event.content.get("guest_access") == "can_join"
        for event in (before, after)
    )
    return then and not now


def guests_leave(room_nid: int, job_nid: int, now: int) -> Change:
    """The job that takes guests out of a room."""
    return Insert(JobRow(job_nid, JOB, encode({"room_nid": room_nid}), now, 0))
