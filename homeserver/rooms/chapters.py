"""The services of rooms beyond talking in them, as one record for endpoints.

Owns their wiring: `build` makes each from what the rest of the server is made of. It holds no
behaviour of its own.
"""

from dataclasses import dataclass

from homeserver.rooms.delayed import DelayedEvents
from homeserver.rooms.inspection import Inspection
from homeserver.rooms.search import Search
from homeserver.rooms.server_notices import ServerNotices
from homeserver.rooms.spaces import Spaces
from homeserver.rooms.summaries import Summaries
from homeserver.rooms.upgrades import Upgrades
from homeserver.users.reports import Reports
from homeserver.users.user_directory import UserDirectory


@dataclass(frozen=True, slots=True)
class Chapters:
    """See the module."""

    delayed: DelayedEvents
    inspection: Inspection
    reports: Reports
    search: Search
    server_notices: ServerNotices
    spaces: Spaces
    summaries: Summaries
    upgrades: Upgrades
    user_directory: UserDirectory
