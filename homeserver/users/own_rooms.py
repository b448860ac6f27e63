"""The rooms that a user may act on as theirs.

Owns the two questions that endpoints about a user's own things in a room ask first: is the user in
the room, and has the user ever had to do with it. Who was never there learns nothing, not even that
the room exists.
"""

from homeserver.errors import MatrixError
from homeserver.rooms.actor import Room, Rooms
from homeserver.streams.memberships import Memberships


class OwnRooms:
    """Finds rooms on behalf of one of their members."""

    def __init__(self, rooms: Rooms, memberships: Memberships) -> None:
        self._rooms = rooms
        self._memberships = memberships

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
