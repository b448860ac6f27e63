"""Who may read which event: the history visibility rules.

Owns the decision for one event and for a run of a room's timeline. The caller supplies the room's
visibility and the reader's membership around each event; nothing is looked up here. A reader who
never joined the room gets what is world readable and nothing else, whatever else is set.
spec: client-server-api#room-history-visibility
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

from homeserver.matrix.canonical import JsonObject

Visibility = Literal["world_readable", "shared", "invited", "joined"]
VISIBILITIES: frozenset[str] = frozenset(("world_readable", "shared", "invited", "joined"))


class Step(NamedTuple):
    """What one event of a timeline changes for its reader; None where it changes nothing.

    `visibility` is the new value of an `m.room.history_visibility` event, `membership` that of the
    reader's own `m.room.member` event.
    """

    visibility: Visibility | None = None
    membership: str | None = None


def visibility_of(content: JsonObject | None) -> Visibility:
    """What a `m.room.history_visibility` content says; `shared` if absent or not understood."""
    value = content.get("history_visibility") if content is not None else None
    if isinstance(value, str) and value in VISIBILITIES:
        return cast("Visibility", value)
    return "shared"


def membership_of(content: JsonObject | None) -> str:
    """The value of an `m.room.member` content; `leave` when there is none."""
    value = content.get("membership") if content is not None else None
    return value if isinstance(value, str) else "leave"


def allows(visibility: Visibility, membership: str, joined_later: bool) -> bool:
    """Whether an event may be read that changes neither the visibility nor the reader's membership.

    `membership` is the reader's at the event, `joined_later` whether they joined at any point after
    it (being joined now counts). spec: client-server-api#room-history-visibility
    """
    if visibility == "world_readable" or membership == "join":
        return True
    if not joined_later:
        return False
    return visibility == "shared" or (visibility == "invited" and membership == "invite")


def visible(
    visibility_before: Visibility,
    visibility_after: Visibility,
    membership_before: str,
    membership_after: str,
    joined_later: bool,
) -> bool:
    """Whether the reader may see an event, given the room before and after that event.

    An event that changes the visibility, or the reader's own membership, is readable when either
    side of the change would show it. For all others before and after are the same.
    `joined_later`: the reader joined at any point after this event (the event itself excluded).
    """
    if allows(visibility_before, membership_before, joined_later):
        return True
    if visibility_after == visibility_before and membership_after == membership_before:
        return False
    return allows(visibility_after, membership_after, joined_later)


def visible_run(
    steps: Sequence[Step | None],
    visibility: Visibility,
    membership: str,
    joined_later: bool,
) -> list[bool]:
    """What of a gapless, linear run of events (oldest first) the reader may see.

    `visibility` and `membership` hold before the first event, `joined_later` tells of the time
    after the last one. A step of None, the usual one, changes nothing. One flag an event is
    returned.
    """
    if not any(steps):
        return [allows(visibility, membership, joined_later)] * len(steps)
    later = _joined_after(steps, joined_later)
    seen: list[bool] = []
    for step, joined in zip(steps, later, strict=True):
        if step is None:
            seen.append(allows(visibility, membership, joined))
            continue
        visibility_after = step.visibility or visibility
        membership_after = step.membership or membership
        seen.append(visible(visibility, visibility_after, membership, membership_after, joined))
        visibility, membership = visibility_after, membership_after
    return seen


def _joined_after(steps: Sequence[Step | None], joined_later: bool) -> list[bool]:
    flags = [joined_later] * len(steps)
    for index in range(len(steps) - 1, -1, -1):
        flags[index] = joined_later
        step = steps[index]
        if step is not None and step.membership == "join":
            joined_later = True
    return flags
