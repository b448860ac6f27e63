"""The links between spaces and their children, after one of them was upgraded.

Owns what other rooms of the user say of the old room: spaces that have it as a child, and children
that have it as their parent, name the new one in its place. A space can have thousands of children,
so that is a job, which the old room's end leaves behind. It can be done again: a room that has
followed says nothing new. Others' links stay where the user may not change them.
spec: client-server-api#room-upgrades
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Rejected
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.send import Draft, Sending
from homeserver.runtime.jobs import Jobs
from homeserver.streams.numbers import Names
from storage.changes import Change
from storage.engine import Database
from storage.memberships import joined_rooms
from storage.state import current_values

log = logging.getLogger(__name__)

JOB: Final = "relink"
CHILD: Final = "m.space.child"
PARENT: Final = "m.space.parent"
AT_ONCE = 16
"""So many rooms are changed at the same time, so that they share commits."""


class Relinking:
    """See the module."""

    def __init__(
        self, rooms: Rooms, database: Database, names: Names, jobs: Jobs, server_name: str
    ) -> None:
        self._rooms = rooms
        self._database = database
        self._names = names
        self._jobs = jobs
        self._server_name = server_name

    async def begin(self, user_id: str, old_id: str, new_id: str) -> Change:
        """What has to be committed for the links to follow; `wake` the jobs then."""
        return await self._jobs.new(JOB, {"user_id": user_id, "old": old_id, "new": new_id})

    def wake(self) -> None:
        """What `begin` gave is committed."""
        self._jobs.wake()

    async def run(self, args: JsonObject) -> None:
        """Change the links to one room; the handler of the jobs."""
        user_id, old_id, new_id = args["user_id"], args["old"], args["new"]
        keys = await self._names.find_keys([(CHILD, old_id), (PARENT, old_id)])
        user_nid = (await self._names.nids([user_id]))[user_id]
        joined = (await joined_rooms(self._database, [user_nid])).get(user_nid, set())
        naming = await current_values(self._database, joined, keys.values())
        await self._names.load(keys=[(CHILD, new_id), (PARENT, new_id)])
        waiting = iter((await self._rooms.by_nids(naming)).values())
        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(naming))):
                group.create_task(self._change(user_id, old_id, new_id, waiting))

    async def _change(
        self, user_id: str, old_id: str, new_id: str, waiting: Iterator[Room]
    ) -> None:
        def verb(sending: Sending) -> None:
            for type_ in (CHILD, PARENT):
                link = sending.head.event(type_, old_id)
                if link is None or not link.content.get("via"):
                    continue
                with suppress(Rejected):
                    content = {**link.content, "via": [self._server_name]}
                    sending.add(Draft(user_id, type_, content, new_id))
                    sending.add(Draft(user_id, type_, {}, old_id))

        for room in waiting:
            # One that can't (it is busy, its policy server says no) keeps no other from it.
            try:
                await self._rooms.change(room, verb)
            except MatrixError as error:
                log.warning("%s goes on to name %s: %s", room.room_id, old_id, error)
