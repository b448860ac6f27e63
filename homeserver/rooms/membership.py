"""Memberships as the specification's words and as stored numbers."""

from typing import Any

from storage.schema import BAN, INVITE, JOIN, KNOCK, LEAVE

NUMBER_OF = {"join": JOIN, "invite": INVITE, "knock": KNOCK, "leave": LEAVE, "ban": BAN}
NAME_OF = {number: name for name, number in NUMBER_OF.items()}


def membership_number(value: Any) -> int:
    """The number of a membership; anything that is no membership counts as LEAVE."""
    return NUMBER_OF.get(value, LEAVE) if isinstance(value, str) else LEAVE
