"""What only application services may do, and what their users' networks are.

spec: application-service-api#client-server-api-extensions, client-server-api#third-party-networks
"""

from typing import Literal

from homeserver.appservices.registration import Registration
from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Empty, RoomID, Shape
from homeserver.matrix.canonical import JsonObject


def service_of(call: Call) -> Registration:
    """The application service whose token a request carries.

    Raises `MatrixError` M_MISSING_TOKEN or M_UNKNOWN_TOKEN (401).
    """
    token = call.request.token(in_query=True)
    if token is None:
        raise MatrixError("M_MISSING_TOKEN", "An application service's token is needed", 401)
    service = call.app.appservices.registry.of_token(token)
    if service is None:
        raise MatrixError("M_UNKNOWN_TOKEN", "No application service has this token", 401)
    return service


class PingBody(Shape):
    transaction_id: str | None = None


class Pong(Shape):
    duration_ms: int


@endpoint(
    "POST /_matrix/client/v1/appservice/{appservice_id}/ping",
    spec="client-server-api#post_matrixclientv1appserviceappserviceidping",
    auth=Client(),
)
async def ping(call: Call, appservice_id: str, body: PingBody = PingBody()) -> Pong:
    """Have this server ask the application service whether it answers."""
    if call.session.service != appservice_id:
        raise MatrixError.forbidden("Only the application service itself may ask for this")
    return Pong(await call.app.appservices.ping(appservice_id, body.transaction_id))


class VisibilityBody(Shape):
    visibility: Literal["public", "private"]


@endpoint(
    "PUT /_matrix/client/v3/directory/list/appservice/{network_id}/{room_id}",
    spec="client-server-api#put_matrixclientv3directorylistappservicenetworkidroomid",
    auth=Client(),
)
async def list_room(call: Call, network_id: str, room_id: RoomID, body: VisibilityBody) -> Empty:
    """List a room in the directory of a network, or no longer."""
    room = await call.app.rooms.find(room_id)
    if room is None:
        raise MatrixError.not_found("This server doesn't know that room")
    await call.app.network_rooms.list_room(
        call.session, network_id, room.nid, listed=body.visibility == "public"
    )
    return Empty()


@endpoint(
    "GET /_matrix/client/v3/thirdparty/protocols",
    spec="client-server-api#get_matrixclientv3thirdpartyprotocols",
    auth=Client(),
)
async def get_protocols(call: Call) -> JsonObject:
    """The protocols of all third-party networks."""
    return await call.app.appservices.queries.protocols()


@endpoint(
    "GET /_matrix/client/v3/thirdparty/protocol/{protocol}",
    spec="client-server-api#get_matrixclientv3thirdpartyprotocolprotocol",
    auth=Client(),
)
async def get_protocol(call: Call, protocol: str) -> JsonObject:
    """One protocol."""
    return await call.app.appservices.queries.protocol(protocol)


class AliasQuery(Shape):
    alias: str


class UserQuery(Shape):
    userid: str


@endpoint(
    "GET /_matrix/client/v3/thirdparty/location",
    spec="client-server-api#get_matrixclientv3thirdpartylocation",
    auth=Client(),
)
async def locations_of_alias(call: Call, query: AliasQuery) -> list[JsonObject]:
    """The places in third-party networks that an alias leads to."""
    return await call.app.appservices.queries.search("location", None, {"alias": query.alias})


@endpoint(
    "GET /_matrix/client/v3/thirdparty/user",
    spec="client-server-api#get_matrixclientv3thirdpartyuser",
    auth=Client(),
)
async def users_of_user(call: Call, query: UserQuery) -> list[JsonObject]:
    """The users of third-party networks behind a Matrix user."""
    return await call.app.appservices.queries.search("user", None, {"userid": query.userid})


@endpoint(
    "GET /_matrix/client/v3/thirdparty/location/{protocol}",
    spec="client-server-api#get_matrixclientv3thirdpartylocationprotocol",
    auth=Client(),
)
async def locations(call: Call, protocol: str) -> list[JsonObject]:
    """Rooms that lead to places of a network, by the fields of its protocol."""
    return await call.app.appservices.queries.search("location", protocol, _fields(call))


@endpoint(
    "GET /_matrix/client/v3/thirdparty/user/{protocol}",
    spec="client-server-api#get_matrixclientv3thirdpartyuserprotocol",
    auth=Client(),
)
async def users(call: Call, protocol: str) -> list[JsonObject]:
    """Matrix users who stand for users of a network, by the fields of its protocol."""
    return await call.app.appservices.queries.search("user", protocol, _fields(call))


def _fields(call: Call) -> dict[str, str]:
    given = call.request.query
    return {name: values[0] for name, values in given.items() if name != "access_token"}
