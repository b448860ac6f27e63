"""The rooms that a user may act on as theirs.

Owns the two questions that endpoints about a user's own things in a room ask first: is the user in
the room, and has the user ever had to do with it. Who was never there learns nothing, not even that
the room exists.
"""

import re

from homeserver.errors import MatrixError
from homeserver.rooms.actor import Room, Rooms
from homeserver.streams.memberships import Memberships
from homeserver.streams.numbers import Names
from storage.engine import Database
from storage.memberships import joined_rooms

_SHARED_AT_ONCE = 100
_TOKEN = re.compile(r"m1_(\d{1,18})")


class OwnRooms:
    """Finds rooms on behalf of one of their members."""

    def __init__(
        self, rooms: Rooms, memberships: Memberships, database: Database, names: Names
    ) -> None:
        self._rooms = rooms
        self._memberships = memberships
        self._database = database
        self._names = names

    async def joined(self, user_nid: int, room_id: str) -> Room:
        """A room that the user is joined to; `MatrixError` M_FORBIDDEN for any other."""
        room = await self._rooms.find(room_id)
        if room is None or room.nid not in (await self._memberships.of(user_nid)).joined:
            raise MatrixError.forbidden("You are not in this room")
        return room

    async def known(self, user_nid: int, room_id: str) -> Room:
        """A room with which the user has or had to do; `MatrixError` M_NOT_FOUND for any other."""
        room = await self._rooms.find(room_id)
        if room is None or room.nid not in (await self._memberships.of(user_nid)).rooms:
            raise MatrixError.not_found("You have no such room")
        return room

    async def shared(
        self, user_nid: int, other_id: str, start: str | None
    ) -> tuple[list[str], int, str | None]:
        """The rooms both users are joined to: a page of ids, their number, the next token.

        Raises `MatrixError` M_INVALID_PARAM for a token that is none.
        spec: client-server-api#get_matrixclientv1mutual_rooms
        """
        after = 0
        if start is not None:
            match = _TOKEN.fullmatch(start)
            if match is None:
                raise MatrixError.invalid_param("from: this is not a token of this server")
            after = int(match.group(1))
        other_nid = (await self._names.find([other_id])).get(other_id)
        if other_nid is None:
            return [], 0, None
        joined = await joined_rooms(self._database, [other_nid])
        shared = (await self._memberships.of(user_nid)).joined & joined.get(other_nid, set())
        page = sorted(nid for nid in shared if nid > after)
        rooms = await self._rooms.by_nids(page[:_SHARED_AT_ONCE])
        rest = f"m1_{page[_SHARED_AT_ONCE - 1]}" if len(page) > _SHARED_AT_ONCE else None
        return [rooms[nid].room_id for nid in page[:_SHARED_AT_ONCE]], len(shared), rest
