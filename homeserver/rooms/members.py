"""Coming, going, and being sent: every change of a membership by a local user.

Owns join, leave, invite, kick, ban, unban, knock and forget. What the room's rules decide is left
to them (`homeserver.matrix.auth`); here stands what the client API adds: idempotence, the profile
in a join, the authorising user of a restricted join, what a member may not be asked twice.
spec: client-server-api#room-membership
"""

from collections.abc import Awaitable, Callable

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import Event
from homeserver.matrix.ids import is_room_id, is_user_id, server_of
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.head import Head
from homeserver.rooms.send import Draft, Sending
from homeserver.streams.commit import CommitQueue
from homeserver.streams.memberships import Memberships
from homeserver.streams.numbers import Names
from storage.engine import Database
from storage.memberships import forget, local_members

Profile = Callable[[str], Awaitable[JsonObject]]

_RESTRICTED = ("restricted", "knock_restricted")
_MAX_ALLOWED_ROOMS = 50
_MAX_NAMED = 20
_AUTHORISED_VIA = "join_authorised_via_users_server"
_MAX_REASON_BYTES = 4_096


class Members:
    """Changes memberships. `profile(user_id)` gives what a user's member events show."""

    def __init__(
        self,
        rooms: Rooms,
        commits: CommitQueue,
        memberships: Memberships,
        database: Database,
        names: Names,
        profile: Profile,
    ) -> None:
        self._rooms = rooms
        self._commits = commits
        self._memberships = memberships
        self._database = database
        self._names = names
        self._profile = profile

    async def join(
        self, user_id: str, room: Room, reason: str | None = None, *, guest: bool = False
    ) -> None:
        """Join; nothing happens when the user is in the room already.

        A `guest` is let in where the room says so. spec: client-server-api#guest-access
        """
        profile = await self._profile(user_id)

        def unless_joined(current: Event | None) -> JsonObject | None:
            if current is not None and current.content.get("membership") == "join":
                return None
            return {**profile, **_with_reason("join", reason)}

        await self._join(user_id, room, unless_joined, guest=guest)

    async def put_state(
        self,
        user_id: str,
        room: Room,
        target: str,
        content: JsonObject,
        *,
        guest: bool = False,
        ts: int | None = None,
    ) -> str:
        """Set a member event as a piece of state; returns the id of the event that stands then.

        `ts` is the event's time, where it isn't now. What authorises a restricted join is ours to
        say, never the client's. Raises `MatrixError` M_INVALID_PARAM when `target` is no user id.
        spec: client-server-api#put_matrixclientv3roomsroomidstateeventtypestatekey
        """
        _check_target(target)
        content = {key: value for key, value in content.items() if key != _AUTHORISED_VIA}
        membership = content.get("membership")

        def changed(current: Event | None) -> JsonObject | None:
            if current is None:
                return content
            same = {k: v for k, v in current.content.items() if k != _AUTHORISED_VIA} == content
            return None if same and current.sender == user_id else content

        if target == user_id and membership == "join":
            return await self._join(user_id, room, changed, guest=guest, ts=ts)

        def verb(sending: Sending) -> str:
            current = sending.head.event("m.room.member", target)
            if target != user_id:
                _check_in_room(sending.head, user_id)
                if membership == "leave" and (
                    current is None or current.content.get("membership") == "leave"
                ):
                    raise MatrixError.forbidden(f"{target} is not in this room")
            if current is not None and changed(current) is None:
                return current.event_id
            return sending.add(Draft(user_id, "m.room.member", content, target, ts=ts)).event_id

        return await self._rooms.change(room, verb)

    async def _join(
        self,
        user_id: str,
        room: Room,
        content_of: Callable[[Event | None], JsonObject | None],
        *,
        guest: bool,
        ts: int | None = None,
    ) -> str:
        """Join with the content made of the present member event; None: leave that as it is."""
        allowed = await self._allowed_by_rooms(user_id, room)
        candidates: list[str] = []

        def verb(sending: Sending) -> str:
            head = sending.head
            current = head.event("m.room.member", user_id)
            content = content_of(current)
            if content is None and current is not None:
                return current.event_id
            content = dict(content or {})
            if guest and head.content_text("m.room.guest_access", "guest_access") != "can_join":
                raise MatrixError(
                    "M_GUEST_ACCESS_FORBIDDEN", "This room doesn't let guests in", 403
                )
            if (
                head.content_text("m.room.join_rules", "join_rule") in _RESTRICTED
                and room.rules.restricted_joins
                and head.membership(user_id) not in ("join", "invite", "ban")
            ):
                if not allowed:
                    raise MatrixError.forbidden(
                        "You are in none of the rooms whose members may join this one"
                    )
                content[_AUTHORISED_VIA] = _authoriser(head, user_id, candidates)
            return sending.add(Draft(user_id, "m.room.member", content, user_id, ts=ts)).event_id

        try:
            return await self._rooms.change(room, verb)
        except _NobodyNamed:
            candidates = await self._local_members(room)
            return await self._rooms.change(room, verb)

    async def leave(self, user_id: str, room: Room, reason: str | None = None) -> None:
        """Leave, decline an invite or take back a knock; nothing happens when already gone."""

        def verb(sending: Sending) -> None:
            current = sending.head.membership(user_id)
            if current == "leave":
                return
            if current is None:
                raise MatrixError.forbidden("You are not in this room")
            sending.add(Draft(user_id, "m.room.member", _with_reason("leave", reason), user_id))

        await self._rooms.change(room, verb)

    async def invite(
        self, user_id: str, room: Room, target: str, reason: str | None = None
    ) -> None:
        """Invite; an invited user may be invited again without anything happening."""
        _check_target(target)

        def verb(sending: Sending) -> None:
            current = sending.head.membership(target)
            head = sending.head
            if current == "invite" and head.membership(user_id) == "join":
                levels = head.power_levels()
                if levels.user_level(user_id) >= levels.invite:
                    return
            sending.add(Draft(user_id, "m.room.member", _with_reason("invite", reason), target))

        await self._rooms.change(room, verb)

    async def kick(self, user_id: str, room: Room, target: str, reason: str | None = None) -> None:
        """Remove a member, or take back an invite or a knock."""
        _check_target(target)

        def verb(sending: Sending) -> None:
            _check_in_room(sending.head, user_id)
            if sending.head.membership(target) not in ("join", "invite", "knock"):
                raise MatrixError.forbidden(f"{target} is not in this room")
            sending.add(Draft(user_id, "m.room.member", _with_reason("leave", reason), target))

        await self._rooms.change(room, verb)

    async def ban(self, user_id: str, room: Room, target: str, reason: str | None = None) -> None:
        """Ban; nothing happens when the user is banned already and the sender may ban."""
        _check_target(target)

        def verb(sending: Sending) -> None:
            head = sending.head
            _check_in_room(head, user_id)
            levels = head.power_levels()
            if head.membership(target) == "ban" and levels.user_level(user_id) >= levels.ban:
                return
            sending.add(Draft(user_id, "m.room.member", _with_reason("ban", reason), target))

        await self._rooms.change(room, verb)

    async def unban(self, user_id: str, room: Room, target: str, reason: str | None = None) -> None:
        """Lift a ban."""
        _check_target(target)

        def verb(sending: Sending) -> None:
            _check_in_room(sending.head, user_id)
            if sending.head.membership(target) != "ban":
                raise MatrixError.forbidden(f"{target} is not banned from this room")
            sending.add(Draft(user_id, "m.room.member", _with_reason("leave", reason), target))

        await self._rooms.change(room, verb)

    async def knock(self, user_id: str, room: Room, reason: str | None = None) -> None:
        """Ask to be let in; asking again changes nothing."""
        profile = await self._profile(user_id)

        def verb(sending: Sending) -> None:
            if sending.head.membership(user_id) == "knock":
                return
            content = {**profile, **_with_reason("knock", reason)}
            sending.add(Draft(user_id, "m.room.member", content, user_id))

        await self._rooms.change(room, verb)

    async def forget(self, user_id: str, room: Room) -> None:
        """Let a room that was left vanish from the user's view.

        Raises `MatrixError` M_UNKNOWN while the user is in the room, invited or knocking.
        spec: client-server-api#post_matrixclientv3roomsroomidforget
        """
        user_nid = (await self._names.nids([user_id]))[user_id]

        def verb(sending: Sending) -> None:
            current = sending.head.membership(user_id)
            if current is None:
                raise MatrixError.forbidden("You were never in this room")
            if current not in ("leave", "ban"):
                raise MatrixError("M_UNKNOWN", "You must leave the room before you forget it", 400)
            sending.changes.append(forget(room.nid, user_nid))

        await self._rooms.change(room, verb)
        self._memberships.forgotten(user_nid, room.nid)

    async def _local_members(self, room: Room) -> list[str]:
        nids = (await local_members(self._database, [room.nid])).get(room.nid, set())
        return sorted((await self._names.names(nids)).values())

    async def _allowed_by_rooms(self, user_id: str, room: Room) -> bool:
        """Whether the user is in one of the rooms that a restricted room names.

        spec: client-server-api#restricted-rooms
        """
        if not room.rules.restricted_joins:
            return False

        def look(head: Head) -> list[str]:
            rules = head.event("m.room.join_rules")
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

        user = await self._memberships.of((await self._names.nids([user_id]))[user_id])
        for room_id in await self._rooms.read(room, look):
            allowing = await self._rooms.find(room_id)
            if allowing is not None and allowing.nid in user.joined:
                return True
        return False


class _NobodyNamed(MatrixError):
    """None of those whom the power levels name can authorise a join."""


def _authoriser(head: Head, user_id: str, members: list[str]) -> str:
    """A local member who may invite, to authorise a restricted join.

    Those whom the power levels name come first, then `members`.
    """
    server = ":" + server_of(user_id)
    levels = head.power_levels()
    found = head.event("m.room.power_levels")
    users = found.content.get("users") if found is not None else None
    create = head.event("m.room.create")
    named = [*head.creators(), *([create.sender] if create else [])]
    named += [user for user in users if isinstance(user, str)] if isinstance(users, dict) else []
    able = [
        user
        for user in dict.fromkeys([*named[:_MAX_NAMED], *members])
        if user.endswith(server) and levels.user_level(user) >= levels.invite
    ]
    for user in able:
        if head.membership(user) == "join":
            return user
    raise _NobodyNamed(
        "M_UNABLE_TO_GRANT_JOIN", "Nobody of this server can authorise a join to this room", 403
    )


def _check_in_room(head: Head, user_id: str) -> None:
    if head.membership(user_id) != "join":
        raise MatrixError.forbidden("You are not in this room")


def _check_target(target: str) -> None:
    if not is_user_id(target):
        raise MatrixError.invalid_param(f"user_id: {target!r} is not a user id")


def _with_reason(membership: str, reason: str | None) -> JsonObject:
    if reason is None:
        return {"membership": membership}
    if len(reason.encode()) > _MAX_REASON_BYTES:
        raise MatrixError.invalid_param(f"reason: longer than {_MAX_REASON_BYTES} bytes")
    return {"membership": membership, "reason": reason}
