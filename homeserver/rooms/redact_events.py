"""Kicks and bans that say that everything of the user in the room is to be redacted (MSC4293).

Owns which member events say so and mean it, and the rows that such a one adds to its commit: what
is to be done, and the job that does it (`mass_redaction.py`). An event without the flag costs one
look at its content.
spec: MSC4293 (both its names: `redact_events` and the unstable one)
"""

from collections.abc import Mapping

from homeserver.matrix.canonical import encode
from homeserver.matrix.event import Event
from homeserver.rooms.head import Head
from storage.changes import Change, Insert, Pos, Put
from storage.schema import JobRow, MassRedactionRow

NOTHING_REDACTED: Mapping[str, bool] = {}
JOB = "mass_redaction"
FLAGS = ("redact_events", "org.matrix.msc4293.redact_events")
# Without the one nobody knows any more what room this is, without the other it is closed to all.
NOT_REDACTABLE = ("m.room.create", "m.room.server_acl")


def wants(event: Event) -> bool:
    """Whether the event is a kick or a ban that says so."""
    content = event.content
    return (
        any(content.get(flag) is True for flag in FLAGS)
        and event.type == "m.room.member"
        and content.get("membership") in ("leave", "ban")
        and event.sender != event.state_key
    )


def redacts_events(head: Head, event: Event) -> bool:
    """Whether the event says so and its sender has the power to redact. Raises `EventsMissing`."""
    if not wants(event):
        return False
    levels = head.power_levels()
    needed = max(levels.redact, levels.event_level("m.room.redaction", False))
    return levels.user_level(event.sender) >= needed


def is_redactable(event: Event) -> bool:
    """Whether an event goes with all others of its sender."""
    return not (event.is_state and event.type in NOT_REDACTABLE)


def mass_redaction(
    room_nid: int, user_nid: int, event_nid: int, pos: Pos, job_nid: int, now: int
) -> list[Change]:
    """What of the user stands in the room before `pos` is redacted by `event_nid`, from now on."""
    args = encode({"room_nid": room_nid, "user_nid": user_nid, "event_nid": event_nid})
    return [
        Put(MassRedactionRow(room_nid, user_nid, event_nid, pos)),
        Insert(JobRow(job_nid, JOB, args, now, 0)),
    ]
