"""Who may read which event: the history visibility rules.

Owns the decision for one event; `allows` is that for a stretch in which nothing changes. The caller
supplies the room's visibility and the reader's membership around each event; nothing is looked up
here. A reader who never joined the room gets what is world readable and nothing else.
spec: client-server-api#room-history-visibility
"""

from typing import Literal, cast

from homeserver.matrix.canonical import JsonObject

Visibility = Literal["world_readable", "shared", "invited", "joined"]
_VISIBILITIES: frozenset[str] = frozenset(("world_readable", "shared", "invited", "joined"))
OPEN: frozenset[Visibility] = frozenset(("world_readable", "shared"))
"""What those may read who join later, too."""


def visibility_of(content: JsonObject | None) -> Visibility:
    """What a `m.room.history_visibility` content says; `shared` if absent or not understood."""
    value = content.get("history_visibility") if content is not None else None
    if isinstance(value, str) and value in _VISIBILITIES:
        return cast("Visibility", value)
    return "shared"


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
