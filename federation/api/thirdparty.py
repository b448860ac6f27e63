"""Third-party invites: from identity servers that learn whose an address is, and between servers.

spec: server-server-api#third-party-invites
"""

from federation.onbind import Onbind
from federation.resident import Resident
from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, Endpoint, NoAuth, Server, endpoint, endpoint_of
from homeserver.http.shape import Empty, RoomID, Shape, UserID
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.ids import server_of


class Signed(Shape):
    mxid: UserID
    token: str
    signatures: JsonObject


class ThirdPartyInvite(Shape):
    signed: Signed


class ExchangedContent(Shape):
    membership: str
    third_party_invite: ThirdPartyInvite


class Exchanged(Shape):
    type: str
    room_id: RoomID
    sender: UserID
    state_key: UserID
    content: ExchangedContent


class BoundInvite(Shape):
    room_id: RoomID
    sender: UserID
    mxid: UserID
    signed: Signed


class Bound(Shape):
    mxid: UserID
    address: str = ""
    medium: str = "email"
    invites: list[BoundInvite] = []


def third_party_endpoints(resident: Resident, onbind: Onbind) -> list[Endpoint]:
    """The endpoints on third-party invites."""

    @endpoint(
        "PUT /_matrix/federation/v1/exchange_third_party_invite/{room_id}",
        spec="server-server-api#put_matrixfederationv1exchange_third_party_inviteroomid",
        auth=Server(),
        limit="server_join",
    )
    async def exchange(call: Call, room_id: RoomID, body: Exchanged) -> Empty:
        """Invite another server's user, for whom an identity server has signed."""
        room = await resident.room(call.origin, room_id)
        invited = body.content.third_party_invite.signed
        if (body.type, body.content.membership) != ("m.room.member", "invite"):
            raise MatrixError.invalid_param("Not an invite")
        if body.room_id != room_id or body.state_key != invited.mxid:
            raise MatrixError.invalid_param("The event is of another room or user")
        if server_of(body.state_key) != call.origin:
            raise MatrixError.forbidden("A server can only ask for its own users")
        await onbind.exchange(room, body.state_key, invited.mxid, invited.token, invited.signatures)
        return Empty()

    @endpoint(
        "PUT /_matrix/federation/v1/3pid/onbind",
        spec="server-server-api#put_matrixfederationv13pidonbind",
        auth=NoAuth(),
        limit="write",
    )
    async def bound(call: Call, body: Bound) -> Empty:
        """An identity server has learnt that an address is one of our users'."""
        for invite in body.invites:
            if invite.mxid != body.mxid or invite.signed.mxid != body.mxid:
                raise MatrixError.invalid_param("An invite is of another user")
        await onbind.bound(
            body.mxid,
            [
                (one.room_id, one.sender, one.signed.token, one.signed.signatures)
                for one in body.invites
            ],
        )
        return Empty()

    return [endpoint_of(exchange), endpoint_of(bound)]
