"""What a room is said to be, to who is not in it.

Owns the summary of a room, and who may have it: who is in it, may come in, may knock, or may read
it anyway. Rooms that none of ours is in are asked of other servers.
spec: client-server-api#get_matrixclientv1room_summaryroomidoralias
"""

from collections.abc import Collection, Sequence

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.ports import RemoteDirectory
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.elsewhere import Elsewhere
from homeserver.rooms.membership import NAME_OF
from homeserver.rooms.public_rooms import entry_of
from homeserver.rooms.restricted import Allowed, Restricted, allowing_rooms
from homeserver.users.sessions import Session
from storage.engine import Database
from storage.memberships import of_user_in
from storage.rooms import summaries

OPEN = ("public", "knock", "knock_restricted")
RESTRICTED = ("restricted", "knock_restricted")
_INSIDE = ("join", "invite", "knock")
_MOST_SERVERS = 5


class Summaries:
    """See the module."""

    def __init__(
        self,
        rooms: Rooms,
        database: Database,
        restricted: Restricted,
        elsewhere: Elsewhere,
        remote: RemoteDirectory,
    ) -> None:
        self._rooms = rooms
        self._database = database
        self._restricted = restricted
        self._elsewhere = elsewhere
        self._remote = remote

    async def of(self, session: Session | None, room_id: str, via: Sequence[str]) -> JsonObject:
        """The summary, for a user or (`session` None) for anybody.

        Raises `MatrixError` M_NOT_FOUND alike for rooms that don't exist and that may not be seen.
        """
        room = await self._rooms.find(room_id)
        if room is not None and await self._elsewhere.present(room):
            membership = await self.membership(session, room)
            if await self.may_see(session, room):
                found = await self.entry(room)
                return found if session is None else {**found, "membership": membership}
        elif session is not None and via:
            answer = await self._remote.hierarchy(via[:_MOST_SERVERS], room_id, False)
            said = answer.get("room") if answer is not None else None
            if isinstance(said, dict) and await self.may_see_remote(session, said):
                shown = {key: value for key, value in said.items() if key != "children_state"}
                membership = "leave" if room is None else await self.membership(session, room)
                return {**shown, "membership": membership}
        raise MatrixError.not_found("There is no such room, or you may not see it")

    async def entry(self, room: Room) -> JsonObject:
        """What is said of a room that we know the state of."""
        row = (await summaries(self._database, [room.nid]))[room.nid]
        entry = entry_of(room.room_id, row)
        entry["room_version"] = room.rules.version
        if row.encryption is not None:
            entry["encryption"] = row.encryption
        if row.join_rule in RESTRICTED:
            entry["allowed_room_ids"] = await self._rooms.read(room, allowing_rooms)
        return entry

    async def membership(self, session: Session | None, room: Room) -> str:
        """The user's membership, `leave` where there never was any."""
        if session is None:
            return "leave"
        rows = await of_user_in(self._database, session.user_nid, [room.nid])
        return NAME_OF[rows[room.nid].membership] if room.nid in rows else "leave"

    async def may_see(self, session: Session | None, room: Room) -> bool:
        """Whether the user (None: anybody) may be told of a room that we know the state of."""
        row = (await summaries(self._database, [room.nid]))[room.nid]
        membership = await self.membership(session, room)
        if membership in _INSIDE:
            return True
        if row.visibility == "world_readable":
            return True
        if membership == "ban":
            return False
        if row.join_rule in OPEN:
            return True
        if session is None or row.join_rule not in RESTRICTED:
            return False
        return await self._restricted.allowed(session.user_id, room) is Allowed.YES

    async def present(self, room: Room) -> bool:
        """Whether we know the room's state, a user of ours being in it."""
        return await self._elsewhere.present(room)

    async def may_tell(self, server: str, room: Room) -> bool:
        """Whether another server may be told of the room: any of its users may come to see it."""
        if await self.may_see(None, room) or server in await self._elsewhere.servers(room):
            return True
        row = (await summaries(self._database, [room.nid]))[room.nid]
        if row.join_rule not in RESTRICTED:
            return False
        for room_id in await self._rooms.read(room, allowing_rooms):
            allowing = await self._rooms.find(room_id)
            if allowing is not None and server in await self._elsewhere.servers(allowing):
                return True
        return False

    async def may_see_remote(self, session: Session, entry: JsonObject) -> bool:
        """Whether the user may be told of a room of which another server says this."""
        if entry.get("world_readable") is True or entry.get("join_rule", "public") in OPEN:
            return True
        room_id = entry.get("room_id")
        room = await self._rooms.find(room_id) if isinstance(room_id, str) else None
        if room is not None and await self.membership(session, room) in _INSIDE:
            return True
        named = entry.get("allowed_room_ids")
        if entry.get("join_rule") not in RESTRICTED or not isinstance(named, list):
            return False
        return await self._is_in_one(session, [id_ for id_ in named[:50] if isinstance(id_, str)])

    async def _is_in_one(self, session: Session, room_ids: Collection[str]) -> bool:
        for room_id in room_ids:
            room = await self._rooms.find(room_id)
            if room is not None and await self.membership(session, room) == "join":
                return True
        return False
