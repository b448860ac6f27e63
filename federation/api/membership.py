"""Joining, knocking, leaving and inviting, for other servers.

spec: server-server-api#joining-rooms, server-server-api#inviting-to-a-room
"""

from collections.abc import AsyncIterator

from msgspec import field

from federation.invites import Invites
from federation.resident import Resident
from homeserver.http.endpoint import Call, Endpoint, Server, endpoint, endpoint_of
from homeserver.http.shape import Empty, EventID, Raw, RoomID, Shape, Streamed, UserID
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject

_V1 = b"[200,%b]"


class Versions(Shape):
    """Who names no version knows the first only."""

    ver: list[str] = field(default_factory=lambda: ["1"])


class JoinQuery(Shape):
    omit_members: bool = False


class InviteBody(Shape):
    room_version: str
    event: JsonObject
    invite_room_state: list[JsonObject] | None = None


class SignedInvite(Shape):
    event: JsonObject


class KnockReply(Shape):
    knock_room_state: list[JsonObject]


def membership_endpoints(resident: Resident, invites: Invites) -> list[Endpoint]:
    """The endpoints on memberships."""

    @endpoint(
        "GET /_matrix/federation/v1/make_join/{room_id}/{user_id}",
        spec="server-server-api#get_matrixfederationv1make_joinroomiduserid",
        auth=Server(),
        limit="server_join",
    )
    async def make_join(
        call: Call, room_id: RoomID, user_id: UserID, query: Versions
    ) -> JsonObject:
        """A template for the join of another server's user."""
        return await resident.template(call.origin, "join", room_id, user_id, query.ver)

    @endpoint(
        "PUT /_matrix/federation/v2/send_join/{room_id}/{event_id}",
        spec="server-server-api#put_matrixfederationv2send_joinroomideventid",
        auth=Server(),
        limit="server_join",
    )
    async def send_join(
        call: Call, room_id: RoomID, event_id: EventID, query: JoinQuery, body: JsonObject
    ) -> Streamed:
        """Take a join; the answer is the room's state."""
        accepted = await resident.take(call.origin, "join", room_id, event_id, body)
        return Streamed(await resident.joined(accepted, omit_members=query.omit_members))

    @endpoint(
        "PUT /_matrix/federation/v1/send_join/{room_id}/{event_id}",
        spec="server-server-api#put_matrixfederationv2send_joinroomideventid",
        auth=Server(),
        limit="server_join",
    )
    async def send_join_v1(
        call: Call, room_id: RoomID, event_id: EventID, body: JsonObject
    ) -> Streamed:
        """The same for older servers, whose answer stands in a list."""
        accepted = await resident.take(call.origin, "join", room_id, event_id, body)
        return Streamed(_in_list(await resident.joined(accepted, omit_members=False)))

    @endpoint(
        "GET /_matrix/federation/v1/make_knock/{room_id}/{user_id}",
        spec="server-server-api#get_matrixfederationv1make_knockroomiduserid",
        auth=Server(),
        limit="server_join",
    )
    async def make_knock(
        call: Call, room_id: RoomID, user_id: UserID, query: Versions
    ) -> JsonObject:
        """A template for the knock of another server's user."""
        return await resident.template(call.origin, "knock", room_id, user_id, query.ver)

    @endpoint(
        "PUT /_matrix/federation/v1/send_knock/{room_id}/{event_id}",
        spec="server-server-api#put_matrixfederationv1send_knockroomideventid",
        auth=Server(),
        limit="server_join",
    )
    async def send_knock(
        call: Call, room_id: RoomID, event_id: EventID, body: JsonObject
    ) -> KnockReply:
        """Take a knock."""
        accepted = await resident.take(call.origin, "knock", room_id, event_id, body)
        return KnockReply(await resident.shown(accepted.room, accepted.event.sender))

    @endpoint(
        "GET /_matrix/federation/v1/make_leave/{room_id}/{user_id}",
        spec="server-server-api#get_matrixfederationv1make_leaveroomiduserid",
        auth=Server(),
        limit="server_join",
    )
    async def make_leave(call: Call, room_id: RoomID, user_id: UserID) -> JsonObject:
        """A template for the leaving of another server's user."""
        return await resident.template(call.origin, "leave", room_id, user_id, None)

    @endpoint(
        "PUT /_matrix/federation/v2/send_leave/{room_id}/{event_id}",
        spec="server-server-api#put_matrixfederationv2send_leaveroomideventid",
        auth=Server(),
        limit="server_join",
    )
    async def send_leave(call: Call, room_id: RoomID, event_id: EventID, body: JsonObject) -> Empty:
        """Take a leave."""
        await resident.take(call.origin, "leave", room_id, event_id, body)
        return Empty()

    @endpoint(
        "PUT /_matrix/federation/v1/send_leave/{room_id}/{event_id}",
        spec="server-server-api#put_matrixfederationv2send_leaveroomideventid",
        auth=Server(),
        limit="server_join",
    )
    async def send_leave_v1(
        call: Call, room_id: RoomID, event_id: EventID, body: JsonObject
    ) -> Raw:
        """The same for older servers."""
        await resident.take(call.origin, "leave", room_id, event_id, body)
        return Raw(_V1 % b"{}")

    @endpoint(
        "PUT /_matrix/federation/v2/invite/{room_id}/{event_id}",
        spec="server-server-api#put_matrixfederationv2inviteroomideventid",
        auth=Server(),
        limit="server_join",
    )
    async def invite(
        call: Call, room_id: RoomID, event_id: EventID, body: InviteBody
    ) -> SignedInvite:
        """Invite one of our users."""
        return SignedInvite(
            await invites.take(
                call.origin,
                room_id,
                event_id,
                body.room_version,
                body.event,
                body.invite_room_state,
            )
        )

    @endpoint(
        "PUT /_matrix/federation/v1/invite/{room_id}/{event_id}",
        spec="server-server-api#put_matrixfederationv1inviteroomideventid",
        auth=Server(),
        limit="server_join",
    )
    async def invite_v1(call: Call, room_id: RoomID, event_id: EventID, body: JsonObject) -> Raw:
        """The same for older servers: to rooms of version 1 or 2, what is shown in `unsigned`."""
        unsigned = body.get("unsigned")
        shown = unsigned.get("invite_room_state") if isinstance(unsigned, dict) else None
        version = "1" if event_id == body.get("event_id") else "?"
        signed = await invites.take(call.origin, room_id, event_id, version, body, shown)
        return Raw(_V1 % canonical.encode({"event": signed}))

    return [
        endpoint_of(one)
        for one in (
            make_join,
            send_join,
            send_join_v1,
            make_knock,
            send_knock,
            make_leave,
            send_leave,
            send_leave_v1,
            invite,
            invite_v1,
        )
    ]


async def _in_list(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield b"[200,"
    async for chunk in chunks:
        yield chunk
    yield b"]"
