"""What a sliding sync request has matched: which rooms, how, and where its windows stood.

Owns the form only; `lists.py` makes it, a connection keeps it for the next request that asks for
the same. It is never changed, only replaced.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from homeserver.rooms.actor import Room
from homeserver.streams.memberships import Membership
from homeserver.streams.sliding.asked import RoomConfig


class Match(NamedTuple):
    """A room that is asked for: how, and by which lists."""

    room: Room
    member: Membership
    config: RoomConfig
    lists: tuple[str, ...]
    subscribed: bool


class Window(NamedTuple):
    """A list of which only some places are wanted: the rooms that pass, and those at the places."""

    passing: Collection[int]
    shown: frozenset[int]


class Matched(NamedTuple):
    """The rooms by number, those with the latest events first; how many each list has.

    `windows` are those of the lists that are not wanted whole.
    """

    rooms: Mapping[int, Match]
    counts: Mapping[str, int]
    direct: frozenset[str]
    windows: Mapping[str, Window] = {}

    @property
    def passing(self) -> Collection[int]:
        """Every room that a list or subscription is about, in a window or not."""
        return self.rooms.keys() | {nid for one in self.windows.values() for nid in one.passing}

    @property
    def lasting(self) -> bool:
        """Whether the same will be matched as long as nothing changes: nobody is told of an end."""
        return all(match.lists or match.subscribed for match in self.rooms.values())
