"""What a sliding sync request asks for, parsed and bounded.

Owns the forms of lists, subscriptions and extensions, and how several rules for one room make one.
It looks at no room.
spec: MSC4186
"""

from collections.abc import Mapping
from typing import NamedTuple

from homeserver.streams.required import Required
from homeserver.users.sessions import Session

ACCOUNT_DATA = 1
RECEIPTS = 2
TYPING = 4


class RoomConfig(NamedTuple):
    """What is wanted of a room: so many events at most, and this state."""

    limit: int
    required: Required

    def joined(self, other: "RoomConfig") -> "RoomConfig":
        """What satisfies both."""
        return RoomConfig(max(self.limit, other.limit), self.required.joined(other.required))


class ListFilter(NamedTuple):
    """Which rooms a list holds; what is None filters nothing."""

    is_dm: bool | None = None
    is_encrypted: bool | None = None
    is_invite: bool | None = None
    spaces: frozenset[str] | None = None
    room_types: frozenset[str | None] | None = None
    not_room_types: frozenset[str | None] | None = None
    tags: frozenset[str] | None = None
    not_tags: frozenset[str] | None = None

    @property
    def asks_kind(self) -> bool:
        """Whether the types of rooms or their encryption decide."""
        return not (
            self.is_encrypted is None and self.room_types is None and self.not_room_types is None
        )

    @property
    def asks_tags(self) -> bool:
        """Whether tags decide."""
        return not (self.tags is None and self.not_tags is None)


class ListConfig(NamedTuple):
    """A list; `ranges` (both ends inclusive) are None for all of it."""

    config: RoomConfig
    ranges: tuple[tuple[int, int], ...] | None
    filter: ListFilter


class Scope(NamedTuple):
    """For which rooms an extension is wanted: those of lists, and subscriptions; None for all."""

    lists: frozenset[str] | None = None
    rooms: frozenset[str] | None = None


class Messages(NamedTuple):
    """The to-device extension: messages after `since`, at most `limit`."""

    since: str | None
    limit: int


class Sticky(NamedTuple):
    """The extension of sticky events: those after `since`, about `limit`."""

    since: str | None
    limit: int


class Extensions(NamedTuple):
    """The extensions that are enabled."""

    messages: Messages | None = None
    sticky: Sticky | None = None
    e2ee: bool = False
    account_data: Scope | None = None
    receipts: Scope | None = None
    typing: Scope | None = None
    threads: int | None = None
    """How many subscriptions to threads, at most; None when they aren't wanted."""

    def of_room(self, room_id: str, lists: tuple[str, ...], *, subscribed: bool) -> int:
        """Which extensions tell of a room, as bits."""
        found = 0
        for bit, scope in (
            (ACCOUNT_DATA, self.account_data),
            (RECEIPTS, self.receipts),
            (TYPING, self.typing),
        ):
            if scope is not None and (
                (subscribed and (scope.rooms is None or room_id in scope.rooms))
                or any(scope.lists is None or name in scope.lists for name in lists)
            ):
                found |= bit
        return found


class Asked(NamedTuple):
    """What is asked for apart from the place in the stream."""

    lists: Mapping[str, ListConfig]
    subscriptions: Mapping[str, RoomConfig]
    extensions: Extensions


class SlidingRequest(NamedTuple):
    """A request; `pos` None for a new connection, `timeout` in seconds."""

    session: Session
    conn_id: str
    pos: str | None
    timeout: float
    asked: Asked
    stored: bool = False
