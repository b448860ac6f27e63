"""Restricted rooms: who may join because of being in another room, and who answers for it.

Owns the two questions that the auth rules leave to the server through which a user joins: whether
the user is in one of the rooms that the join rules name, as far as this server can know, and which
member of this server authorises the join. The rules themselves are in `matrix.auth`.
spec: client-server-api#restricted-rooms
"""

import enum
from collections.abc import Collection

from homeserver.errors import MatrixError
from homeserver.matrix.event import Event
from homeserver.matrix.ids import is_room_id
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.head import Head
from homeserver.streams.numbers import Names
from storage.engine import Database
from storage.memberships import anybody_of_ours_in, local_members, of_user_in
from storage.schema import JOIN

_MAX_ALLOWED_ROOMS = 50
_MAX_NAMED = 20
_RESTRICTED = ("restricted", "knock_restricted")
AUTHORISED_VIA = "join_authorised_via_users_server"


class Allowed(enum.Enum):
    """Whether a user is in one of the rooms that let in; UNKNOWN: in none that we know all of."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class NobodyNamed(MatrixError):
    """None of those whom the power levels name can authorise a join."""


class Restricted:
    """See the module."""

    def __init__(self, rooms: Rooms, database: Database, names: Names) -> None:
        self._rooms = rooms
        self._database = database
        self._names = names

    async def allowed(self, user_id: str, room: Room) -> Allowed:
        """Whether one of the rooms that the room names lets the user in."""
        if not room.rules.restricted_joins:
            return Allowed.NO
        user_nid = (await self._names.nids([user_id]))[user_id]
        unknown = False
        for room_id in await self._rooms.read(room, allowing_rooms):
            allowing = await self._rooms.find(room_id)
            if allowing is None or not await anybody_of_ours_in(self._database, allowing.nid):
                unknown = True
                continue
            row = (await of_user_in(self._database, user_nid, [allowing.nid])).get(allowing.nid)
            if row is not None and row.membership == JOIN:
                return Allowed.YES
        return Allowed.UNKNOWN if unknown else Allowed.NO

    async def members(self, room: Room) -> list[str]:
        """The members of the room who are ours."""
        nids = (await local_members(self._database, [room.nid])).get(room.nid, set())
        return sorted((await self._names.names(nids)).values())


def needs_authoriser(head: Head, user_id: str) -> bool:
    """Whether a join of this user needs somebody who authorises it."""
    return (
        head.rules.restricted_joins
        and head.content_text("m.room.join_rules", "join_rule") in _RESTRICTED
        and head.membership(user_id) not in ("join", "invite", "ban")
    )


def authoriser(head: Head, server: str, members: Collection[str]) -> str:
    """A member of the server who may invite, to authorise a restricted join.

    Those whom the power levels name come first, then `members`. Raises NobodyNamed.
    """
    levels = head.power_levels()
    found = head.event("m.room.power_levels")
    users = found.content.get("users") if found is not None else None
    create = head.event("m.room.create")
    named = [*head.creators(), *([create.sender] if create else [])]
    named += [user for user in users if isinstance(user, str)] if isinstance(users, dict) else []
    able = [
        user
        for user in dict.fromkeys([*named[:_MAX_NAMED], *members])
        if user.endswith(":" + server) and levels.user_level(user) >= levels.invite
    ]
    for user in able:
        if head.membership(user) == "join":
            return user
    raise NobodyNamed(
        "M_UNABLE_TO_GRANT_JOIN", "Nobody of this server can authorise a join to this room", 400
    )


def allowing_rooms(head: Head) -> list[str]:
    """The ids of the rooms whose members may join a restricted room."""
    rules: Event | None = head.event("m.room.join_rules")
    if rules is None or rules.content.get("join_rule") not in _RESTRICTED:
        return []
    allow = rules.content.get("allow")
    return [
        rule["room_id"]
        for rule in (allow if isinstance(allow, list) else [])[:_MAX_ALLOWED_ROOMS]
        if isinstance(rule, dict)
        and rule.get("type") == "m.room_membership"
        and isinstance(rule.get("room_id"), str)
        and is_room_id(rule["room_id"])
    ]
