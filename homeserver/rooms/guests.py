"""Guests leave a room that lets guests in no more.

Owns the job that such a room's change of state has left in its commit: every guest of this server
who is joined leaves.
spec: client-server-api#guest-access
"""

import logging
from collections.abc import Collection

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Rejected
from homeserver.rooms.actor import Rooms
from homeserver.rooms.append import Appended
from homeserver.rooms.guest_access import lets_guests_in, turns_guests_away
from homeserver.rooms.members import Members
from homeserver.runtime.jobs import Jobs
from homeserver.streams.numbers import Names
from storage.engine import Database
from storage.memberships import joined_guests

log = logging.getLogger(__name__)


class Guests:
    """See the module."""

    def __init__(
        self, rooms: Rooms, members: Members, database: Database, names: Names, jobs: Jobs
    ) -> None:
        self._rooms = rooms
        self._members = members
        self._database = database
        self._names = names
        self._jobs = jobs

    def happened(self, _room_nid: int, _first: int, events: Collection[Appended]) -> None:
        """There are new events; some may have left a job."""
        if any(turns_guests_away(appended.replaced, appended.event) for appended in events):
            self._jobs.wake()

    async def run(self, args: JsonObject) -> None:
        """Take the guests out of one room; the handler of the jobs."""
        room_nid: int = args["room_nid"]
        room = (await self._rooms.by_nids([room_nid]))[room_nid]
        if await self._rooms.read(room, lets_guests_in):
            return
        guests = await joined_guests(self._database, room_nid)
        for user_id in (await self._names.names(guests)).values():
            try:
                await self._members.leave(user_id, room)
            except (MatrixError, Rejected) as error:
                if isinstance(error, MatrixError) and error.status >= 500:
                    raise
                log.info("%s stays in %s: %s", user_id, room.room_id, error)
