"""Coming, going, and being sent: every change of a membership by a local user.

Owns join, leave, invite, kick, ban, unban, knock and forget. What the room's rules decide is left
to them (`homeserver.matrix.auth`); here stands what the client API adds: idempotence, the profile
in a join, the authorising user of a restricted join, what a member may not be asked twice.
spec: client-server-api#room-membership
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import Event
from homeserver.matrix.ids import is_user_id
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.elsewhere import Elsewhere
from homeserver.rooms.guest_access import lets_guests_in
from homeserver.rooms.head import Head
from homeserver.rooms.membership import NAME_OF
from homeserver.rooms.redact_events import NOTHING_REDACTED, wants
from homeserver.rooms.restricted import (
    AUTHORISED_VIA,
    Allowed,
    NobodyNamed,
    Restricted,
    authoriser,
    needs_authoriser,
)
from homeserver.rooms.send import Draft, Sending
from homeserver.streams.invite_permissions import InvitePermissions
from homeserver.streams.memberships import Memberships
from homeserver.streams.numbers import Names
from storage.engine import Database
from storage.memberships import forget

Profile = Callable[[str], Awaitable[JsonObject]]
CameOver = Callable[[str, Room], Awaitable[None]]

_IN_NONE = "You are in none of the rooms whose members may join this one"
_MAX_REASON_BYTES = 4_096


class Members:
    """Changes memberships. `profile(user_id)` gives what a user's member events show."""

    def __init__(
        self,
        rooms: Rooms,
        memberships: Memberships,
        database: Database,
        names: Names,
        profile: Profile,
        restricted: Restricted,
        elsewhere: Elsewhere,
        permissions: InvitePermissions,
        server_name: str,
        official: str,
    ) -> None:
        """`official` is the user in whose name the server speaks."""
        self._rooms = rooms
        self._memberships = memberships
        self._database = database
        self._names = names
        self._profile = profile
        self._restricted = restricted
        self._elsewhere = elsewhere
        self._permissions = permissions
        self._server_name = server_name
        self._official = official
        self._came_over: CameOver | None = None

    def on_join(self, came_over: "CameOver") -> None:
        """Have `came_over(user id, room)` done after each new join to a room that we are in."""
        self._came_over = came_over

    async def join(
        self,
        user_id: str,
        room_id: str,
        reason: str | None = None,
        *,
        via: Sequence[str] = (),
        guest: bool = False,
    ) -> None:
        """Join; nothing happens when the user is in the room already.

        Other servers are asked, those of `via` first, when none of ours is in the room or can let
        the user in. A `guest` is let in where the room says so.
        spec: client-server-api#guest-access
        """
        content = {**await self._profile(user_id), **_with_reason("join", reason)}

        joining = True

        def unless_joined(current: Event | None) -> JsonObject | None:
            nonlocal joining
            joining = current is None or current.content.get("membership") != "join"
            return content if joining else None

        room = await self._rooms.find(room_id)
        if room is not None and await self._elsewhere.present(room):
            try:
                await self._join(user_id, room, unless_joined, guest=guest)
                if joining and self._came_over is not None:
                    await self._came_over(user_id, room)
                return
            except NobodyHere as error:
                if guest or not await self._elsewhere.servers(room):
                    raise MatrixError(error.errcode, error.message, error.status) from None
        elif guest:
            raise MatrixError(
                "M_GUEST_ACCESS_FORBIDDEN", "Guests can't join rooms of other servers", 403
            )
        await self._elsewhere.join(user_id, room_id, via, content)

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
        say, never the client's. Raises `MatrixError` M_INVALID_PARAM when `target` is no user id,
        M_INVITE_BLOCKED when it is one who doesn't take this invite.
        spec: client-server-api#put_matrixclientv3roomsroomidstateeventtypestatekey
        """
        _check_target(target)
        content = {key: value for key, value in content.items() if key != AUTHORISED_VIA}
        membership = content.get("membership")
        if membership == "invite":
            await self._permissions.check(user_id, [target])

        def changed(current: Event | None) -> JsonObject | None:
            if current is None:
                return content
            same = {k: v for k, v in current.content.items() if k != AUTHORISED_VIA} == content
            return None if same and current.sender == user_id else content

        if target == user_id and membership == "join":
            return await self._join(user_id, room, changed, guest=guest, ts=ts)
        if membership == "invite" and not self._is_ours(target):
            draft = Draft(user_id, "m.room.member", content, target)
            return (await self._elsewhere.invite(room, draft)).event_id

        def verb(sending: Sending) -> str:
            current = sending.head.event("m.room.member", target)
            if target == user_id and membership == "leave":
                self._check_may_decline(current)
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
        allowed = await self._restricted.allowed(user_id, room)
        candidates: list[str] = []

        def verb(sending: Sending) -> str:
            head = sending.head
            current = head.event("m.room.member", user_id)
            content = content_of(current)
            if content is None and current is not None:
                return current.event_id
            content = dict(content or {})
            if guest and not lets_guests_in(head):
                raise MatrixError(
                    "M_GUEST_ACCESS_FORBIDDEN", "This room doesn't let guests in", 403
                )
            if needs_authoriser(head, user_id):
                if allowed is Allowed.UNKNOWN:
                    raise NobodyHere("M_FORBIDDEN", _IN_NONE, 403)
                if allowed is Allowed.NO:
                    raise MatrixError.forbidden(_IN_NONE)
                content[AUTHORISED_VIA] = authoriser(head, self._server_name, candidates)
            return sending.add(Draft(user_id, "m.room.member", content, user_id, ts=ts)).event_id

        try:
            return await self._rooms.change(room, verb)
        except NobodyNamed:
            candidates = await self._restricted.members(room)
            try:
                return await self._rooms.change(room, verb)
            except NobodyNamed as error:
                raise NobodyHere(error.errcode, error.message, 403) from None

    async def leave(
        self, user_id: str, room: Room, reason: str | None = None, *, closing: bool = False
    ) -> None:
        """Leave, decline an invite or take back a knock; nothing happens when already gone.

        No other server is waited for. Raises `MatrixError` M_CANNOT_LEAVE_SERVER_NOTICE_ROOM for
        the invite to a room of server notices, unless the user's account is `closing`.
        spec: client-server-api#server-notices
        """
        if await self._elsewhere.outside.leave(user_id, room, reason):
            return
        outside = await self._elsewhere.outside.membership(user_id, room)

        def verb(sending: Sending) -> None:
            current = sending.head.membership(user_id)
            if current == "leave" or outside is not None:
                return
            if current is None:
                raise MatrixError.forbidden("You are not in this room")
            if not closing:
                self._check_may_decline(sending.head.event("m.room.member", user_id))
            sending.add(Draft(user_id, "m.room.member", _with_reason("leave", reason), user_id))

        await self._rooms.change(room, verb)

    async def invite(
        self, user_id: str, room: Room, target: str, reason: str | None = None
    ) -> None:
        """Invite; an invited user may be invited again without anything happening.

        A user of another server is invited when that has signed the event. Raises `MatrixError`:
        what it answered, or M_UNKNOWN (502) when it can't be reached; M_INVITE_BLOCKED (403) when
        the user doesn't take this invite.
        """
        _check_target(target)
        await self._permissions.check(user_id, [target])
        draft = Draft(user_id, "m.room.member", _with_reason("invite", reason), target)

        def invited(head: Head) -> bool:
            if head.membership(target) != "invite" or head.membership(user_id) != "join":
                return False
            levels = head.power_levels()
            return levels.user_level(user_id) >= levels.invite

        if not self._is_ours(target):
            if not await self._rooms.read(room, invited):
                await self._elsewhere.invite(room, draft)
            return

        def verb(sending: Sending) -> None:
            if not invited(sending.head):
                sending.add(draft)

        await self._rooms.change(room, verb)

    async def invite_to_new(self, user_id: str, room: Room, target: str, is_direct: bool) -> None:
        """Invite a user of another server to a room that has just been made; raises as `invite`."""
        content: JsonObject = {"membership": "invite"}
        if is_direct:
            content["is_direct"] = True
        await self._elsewhere.invite(room, Draft(user_id, "m.room.member", content, target))

    async def kick(
        self,
        user_id: str,
        room: Room,
        target: str,
        reason: str | None = None,
        *,
        redact_events: Mapping[str, bool] = NOTHING_REDACTED,
    ) -> None:
        """Remove a member, or take back an invite or a knock.

        `redact_events` is what is said of the user's events, as the member event has it.
        """
        _check_target(target)

        def verb(sending: Sending) -> None:
            _check_in_room(sending.head, user_id)
            if sending.head.membership(target) not in ("join", "invite", "knock"):
                raise MatrixError.forbidden(f"{target} is not in this room")
            content = {**_with_reason("leave", reason), **redact_events}
            sending.add(Draft(user_id, "m.room.member", content, target))

        await self._rooms.change(room, verb)

    async def ban(
        self,
        user_id: str,
        room: Room,
        target: str,
        reason: str | None = None,
        *,
        redact_events: Mapping[str, bool] = NOTHING_REDACTED,
    ) -> None:
        """Ban; nothing happens when the user is banned already and the sender may ban.

        `redact_events` is as for `kick`: a ban that redacts may follow one that doesn't.
        """
        _check_target(target)

        def verb(sending: Sending) -> None:
            head = sending.head
            _check_in_room(head, user_id)
            levels = head.power_levels()
            current = head.event("m.room.member", target)
            banned = current is not None and current.content.get("membership") == "ban"
            more = any(redact_events.values()) and (current is None or not wants(current))
            if banned and not more and levels.user_level(user_id) >= levels.ban:
                return
            content = {**_with_reason("ban", reason), **redact_events}
            sending.add(Draft(user_id, "m.room.member", content, target))

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

    async def knock(
        self, user_id: str, room_id: str, reason: str | None = None, *, via: Sequence[str] = ()
    ) -> None:
        """Ask to be let in; asking again changes nothing.

        Other servers are asked, those of `via` first, when none of ours is in the room.
        """
        content = {**await self._profile(user_id), **_with_reason("knock", reason)}
        room = await self._rooms.find(room_id)
        if room is None or not await self._elsewhere.present(room):
            await self._elsewhere.knock(user_id, room_id, via, content)
            return

        def verb(sending: Sending) -> None:
            if sending.head.membership(user_id) == "knock":
                return
            sending.add(Draft(user_id, "m.room.member", content, user_id))

        await self._rooms.change(room, verb)

    async def forget(self, user_id: str, room: Room) -> None:
        """Let a room that was left vanish from the user's view.

        Raises `MatrixError` M_UNKNOWN while the user is in the room, invited or knocking.
        spec: client-server-api#post_matrixclientv3roomsroomidforget
        """
        user_nid = (await self._names.nids([user_id]))[user_id]
        outside = await self._elsewhere.outside.membership(user_id, room)

        def verb(sending: Sending) -> None:
            current = sending.head.membership(user_id)
            if outside is not None:
                current = NAME_OF[outside.membership]
            if current is None:
                raise MatrixError.forbidden("You were never in this room")
            if current not in ("leave", "ban"):
                raise MatrixError("M_UNKNOWN", "You must leave the room before you forget it", 400)
            sending.changes.append(forget(room.nid, user_nid))

        await self._rooms.change(room, verb)
        self._memberships.forgotten(user_nid, room.nid)

    def _check_may_decline(self, member: Event | None) -> None:
        if (
            member is not None
            and member.content.get("membership") == "invite"
            and member.sender == self._official
        ):
            raise MatrixError(
                "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM",
                "The invite to the server's notices can't be declined",
                403,
            )

    def _is_ours(self, user_id: str) -> bool:
        return user_id.endswith(":" + self._server_name)


class NobodyHere(MatrixError):
    """Nobody of this server can let the user in; somebody of another may."""


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
