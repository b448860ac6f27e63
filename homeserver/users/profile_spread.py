"""Bringing a changed profile to the rooms that the user is in.

Owns the order and the pace: the rooms in which the user was last heard of first, a few at a time,
so that others are served between. It can be broken off and done again: a room that has followed is
passed over without being loaded. A newer change ends it, since the job of that one does the rest.
spec: client-server-api#events-on-change-of-profile-information
"""

import asyncio
import logging
from collections.abc import Iterator

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Rejected
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.send import Draft, Sending
from homeserver.rooms.stored import load_events
from homeserver.streams.memberships import Memberships, UserRooms
from homeserver.streams.numbers import Names
from homeserver.users.profiles import Profiles, Spreading
from storage.engine import Database

log = logging.getLogger(__name__)

AT_ONCE = 4
_OF_ONE_EVENT = ("reason", "join_authorised_via_users_server")
"""What a member event says of itself, not of its user."""


class ProfileSpread:
    """The handler of the jobs of `Profiles`."""

    def __init__(
        self,
        profiles: Profiles,
        rooms: Rooms,
        memberships: Memberships,
        names: Names,
        database: Database,
    ) -> None:
        self._profiles = profiles
        self._rooms = rooms
        self._memberships = memberships
        self._names = names
        self._database = database

    async def run(self, args: JsonObject) -> None:
        """Update the user's member event wherever it shows what the profile said before.

        A room that refuses does not keep the others from being told.
        """
        user_nid: int = args["user_nid"]
        user_id = (await self._names.names([user_nid]))[user_nid]
        user = await self._memberships.of(user_nid)
        newest_first = sorted(user.joined, key=lambda nid: user.rooms[nid].pos, reverse=True)
        found = await self._rooms.by_nids(newest_first)
        waiting = iter([found[nid] for nid in newest_first])

        async def worker() -> bool:
            return await self._tell(user_nid, user_id, user, args["number"], waiting)

        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(worker()) for _ in range(AT_ONCE)]
        if all(worker.result() for worker in workers):
            await self._profiles.spread(user_nid, args["number"])

    async def _tell(
        self, user_nid: int, user_id: str, user: UserRooms, number: int, waiting: Iterator[Room]
    ) -> bool:
        """Tell one room after the other; False when there is a newer change."""
        for room in waiting:
            spreading = await self._profiles.spreading(user_nid)
            if spreading is None or spreading.number != number:
                return False
            event_nid = user.rooms[room.nid].event_nid
            events = await load_events(self._database, [event_nid], room.rules)
            if spreading.followed(events[event_nid].content) is not None:
                await self._update(user_id, room, spreading)
        return True

    async def _update(self, user_id: str, room: Room, spreading: Spreading) -> None:
        def verb(sending: Sending) -> None:
            current = sending.head.event("m.room.member", user_id)
            if current is None or current.content.get("membership") != "join":
                return
            content = spreading.followed(current.content)
            if content is not None:
                for key in _OF_ONE_EVENT:
                    content.pop(key, None)
                sending.add(Draft(user_id, "m.room.member", content, user_id))

        try:
            await self._rooms.change(room, verb)
        except (MatrixError, Rejected) as error:
            # Another server that fails (502) is this room's matter.
            if isinstance(error, MatrixError) and error.status >= 500 and error.status != 502:
                raise
            log.info("%s keeps the old profile of %s: %s", room.room_id, user_id, error)
