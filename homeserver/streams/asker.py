"""Who asks for news, and how it wants to be answered.

A value for one request; it knows nothing of rooms and reads nothing.
spec: client-server-api#syncing
"""

from typing import Literal, NamedTuple

from homeserver.matrix.filters import Filter
from homeserver.rooms.views import EventView
from homeserver.streams.lazy import KnownMembers
from homeserver.streams.required import Required

DEFAULT_LIMIT = 10
MOST_EVENTS = 1_000
StateName = Literal["state", "state_after", "org.matrix.msc4222.state_after"]


class Asker(NamedTuple):
    """Who syncs, and how it wants to be answered. `ignored` are the users that it ignores.

    `members` is what it knows of the members, where that is kept. `misled` when it knows a future
    that was lost: nothing can be added to what it shows. `stored` when the tables are to be read
    also where memory would do. `required` is the only state that it wants, None for all that the
    filter admits; `had` is what it required before, where that was less. `most` is the limit of
    timelines, None for the filter's.
    """

    user_id: str
    user_nid: int
    device_nid: int | None
    filter: Filter
    full_state: bool
    state_name: StateName
    ignored: frozenset[str]
    now: int
    members: KnownMembers | None = None
    misled: bool = False
    stored: bool = False
    required: Required | None = None
    had: Required | None = None
    most: int | None = None

    @property
    def limit(self) -> int:
        """How many events a timeline has at most."""
        if self.most is not None:
            return self.most
        return self.filter.room.timeline.capped(DEFAULT_LIMIT, MOST_EVENTS)

    @property
    def use_state_after(self) -> bool:
        """Whether state is that at the end of the timeline (MSC4222, v1.16)."""
        return self.state_name != "state"

    @property
    def lazy(self) -> bool:
        """Whether members are told only as they are needed."""
        return self.filter.room.state.lazy_load_members

    @property
    def special(self) -> bool:
        """Whether it is told other things than others with the same filter."""
        return (
            self.lazy
            or bool(self.ignored)
            or self.full_state
            or self.stored
            or self.required is not None
        )

    def shows(self, view: EventView, room_id: str) -> bool:
        """Whether the timeline may show the event: it passes the filter and isn't ignored."""
        if view.state_key is None and view.sender in self.ignored:
            return False
        return self.filter.room.timeline.matches(view.type, view.sender, room_id, view.contains_url)
