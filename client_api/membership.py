"""Joining, leaving, inviting, removing, banning, knocking.

spec: client-server-api#room-membership
"""

from collections.abc import Sequence

import msgspec

from client_api.rooms import AccessToken, AddressText, RoomIDReply
from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Empty, RoomID, RoomIDOrAlias, Shape, UserID
from homeserver.matrix.canonical import JsonObject
from homeserver.rooms.address_invites import Address
from homeserver.rooms.redact_events import FLAGS


class ReasonBody(Shape):
    reason: str | None = None


class ViaQuery(Shape):
    """`server_name` is the older name of `via`."""

    via: list[str] = []
    server_name: list[str] = []


class JoinBody(Shape):
    reason: str | None = None
    third_party_signed: JsonObject | None = None


class TargetBody(Shape):
    user_id: UserID
    reason: str | None = None


class RemovalBody(TargetBody):
    """Under each of its names `redact_events` goes into the event as it is (MSC4293)."""

    redact_events: bool | None = None
    unstable_redact_events: bool | None = msgspec.field(
        default=None, name="org.matrix.msc4293.redact_events"
    )

    def flags(self) -> dict[str, bool]:
        """What was said, as the member event has it."""
        said = zip(FLAGS, (self.redact_events, self.unstable_redact_events), strict=True)
        return {flag: value for flag, value in said if value is not None}


class InviteBody(Shape):
    """A user, or an address of which `medium` says what it is."""

    user_id: UserID | None = None
    reason: str | None = None
    medium: str | None = None
    address: AddressText | None = None
    id_server: AddressText | None = None
    id_access_token: AccessToken | None = None

    def invited(self) -> UserID | Address:
        """Who is invited."""
        if self.user_id is not None:
            return self.user_id
        if None in (given := (self.medium, self.address, self.id_server, self.id_access_token)):
            raise MatrixError.missing_param(
                "Either user_id, or medium, address, id_server and id_access_token are needed"
            )
        return Address(*map(str, given))


@endpoint(
    "POST /_matrix/client/v3/join/{room_id_or_alias}",
    spec="client-server-api#post_matrixclientv3joinroomidoralias",
    auth=Client(guests=True, suspended=False),
    limit="join",
)
async def join(
    call: Call, room_id_or_alias: RoomIDOrAlias, query: ViaQuery, body: JoinBody = JoinBody()
) -> RoomIDReply:
    """Join a room by its id or an alias."""
    room_id, servers = await _located(call, room_id_or_alias)
    return await _join(call, room_id, [*query.via, *query.server_name, *servers], body)


@endpoint(
    "POST /_matrix/client/v3/rooms/{room_id}/join",
    spec="client-server-api#post_matrixclientv3roomsroomidjoin",
    auth=Client(guests=True, suspended=False),
    limit="join",
)
async def join_room(call: Call, room_id: RoomID, body: JoinBody = JoinBody()) -> RoomIDReply:
    """Join a room by its id."""
    return await _join(call, room_id, (), body)


@endpoint(
    "POST /_matrix/client/v3/knock/{room_id_or_alias}",
    spec="client-server-api#post_matrixclientv3knockroomidoralias",
    auth=Client(suspended=False),
    limit="join",
)
async def knock(
    call: Call, room_id_or_alias: RoomIDOrAlias, query: ViaQuery, body: ReasonBody = ReasonBody()
) -> RoomIDReply:
    """Ask to be let into a room."""
    room_id, servers = await _located(call, room_id_or_alias)
    via = [*query.via, *query.server_name, *servers]
    await call.app.members.knock(call.session.user_id, room_id, body.reason, via=via)
    return RoomIDReply(room_id)


@endpoint(
    "POST /_matrix/client/v3/rooms/{room_id}/leave",
    spec="client-server-api#post_matrixclientv3roomsroomidleave",
    auth=Client(guests=True),
)
async def leave(call: Call, room_id: RoomID, body: ReasonBody = ReasonBody()) -> Empty:
    """Leave a room, or decline an invite to it."""
    room = await call.app.rooms.known(room_id)
    await call.app.members.leave(call.session.user_id, room, body.reason)
    return Empty()


@endpoint(
    "POST /_matrix/client/v3/rooms/{room_id}/forget",
    spec="client-server-api#post_matrixclientv3roomsroomidforget",
    auth=Client(guests=True),
)
async def forget(call: Call, room_id: RoomID) -> Empty:
    """Forget a room that was left."""
    room = await call.app.rooms.known(room_id)
    await call.app.members.forget(call.session.user_id, room)
    return Empty()


@endpoint(
    "POST /_matrix/client/v3/rooms/{room_id}/invite",
    spec="client-server-api#post_matrixclientv3roomsroomidinvite",
    auth=Client(suspended=False),
    limit="invite",
)
async def invite(call: Call, room_id: RoomID, body: InviteBody) -> Empty:
    """Invite a user, or whoever has an address. spec: client-server-api#third-party-invites"""
    room, to = await call.app.rooms.known(room_id), body.invited()
    if isinstance(to, Address):
        await call.app.address_invites.invite(call.session.user_id, room, to, body.reason)
    else:
        await call.app.members.invite(call.session.user_id, room, to, body.reason)
    return Empty()


@endpoint(
    "POST /_matrix/client/v3/rooms/{room_id}/kick",
    spec="client-server-api#post_matrixclientv3roomsroomidkick",
    auth=Client(suspended=False),
)
async def kick(call: Call, room_id: RoomID, body: RemovalBody) -> Empty:
    """Remove a user from a room."""
    room = await call.app.rooms.known(room_id)
    await call.app.members.kick(
        call.session.user_id, room, body.user_id, body.reason, redact_events=body.flags()
    )
    return Empty()


@endpoint(
    "POST /_matrix/client/v3/rooms/{room_id}/ban",
    spec="client-server-api#post_matrixclientv3roomsroomidban",
    auth=Client(suspended=False),
)
async def ban(call: Call, room_id: RoomID, body: RemovalBody) -> Empty:
    """Ban a user from a room."""
    room = await call.app.rooms.known(room_id)
    await call.app.members.ban(
        call.session.user_id, room, body.user_id, body.reason, redact_events=body.flags()
    )
    return Empty()


@endpoint(
    "POST /_matrix/client/v3/rooms/{room_id}/unban",
    spec="client-server-api#post_matrixclientv3roomsroomidunban",
    auth=Client(suspended=False),
)
async def unban(call: Call, room_id: RoomID, body: TargetBody) -> Empty:
    """Lift a ban."""
    room = await call.app.rooms.known(room_id)
    await call.app.members.unban(call.session.user_id, room, body.user_id, body.reason)
    return Empty()


async def _join(call: Call, room_id: str, via: Sequence[str], body: JoinBody) -> RoomIDReply:
    session = call.session
    room = await call.app.rooms.find(room_id)
    if body.third_party_signed is not None and room is not None:
        await call.app.third_party_invites.exchange(room, session.user_id, body.third_party_signed)
    await call.app.members.join(
        session.user_id, room_id, body.reason, via=via, guest=session.is_guest
    )
    return RoomIDReply(room_id)


async def _located(call: Call, room_id_or_alias: str) -> tuple[str, Sequence[str]]:
    """The room id, and servers that an alias names."""
    if room_id_or_alias.startswith("#"):
        return await call.app.directory.locate(room_id_or_alias)
    return room_id_or_alias, ()
