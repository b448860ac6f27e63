"""The published room directory.

spec: client-server-api#published-room-directory
"""

from msgspec import to_builtins

from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, Client, OptionalClient, endpoint
from homeserver.http.shape import Natural, ServerName, Shape
from homeserver.matrix.canonical import JsonObject
from homeserver.rooms.public_rooms import DirectoryQuery


class ServerQuery(Shape):
    server: ServerName | None = None


class ListQuery(ServerQuery):
    limit: Natural | None = None
    since: str | None = None


class DirectoryFilter(Shape):
    generic_search_term: str | None = None
    room_types: list[str | None] | None = None


class SearchBody(Shape):
    limit: Natural | None = None
    since: str | None = None
    filter: DirectoryFilter | None = None
    include_all_networks: bool = False
    third_party_instance_id: str | None = None


@endpoint(
    "GET /_matrix/client/v3/publicRooms",
    spec="client-server-api#get_matrixclientv3publicrooms",
    auth=OptionalClient(),
    limit="read_heavy",
)
async def get_public_rooms(call: Call, query: ListQuery) -> JsonObject:
    """A page of the directory, or of another server's, for users of this one."""
    server = _other_server(call, query)
    if server is not None:
        page = {"limit": query.limit, "since": query.since}
        return await call.app.remote_directory.public_rooms(server, _given(page))
    return await call.app.public_rooms.page(DirectoryQuery(query.limit, query.since))


@endpoint(
    "POST /_matrix/client/v3/publicRooms",
    spec="client-server-api#post_matrixclientv3publicrooms",
    auth=Client(guests=True),
    limit="read_heavy",
)
async def search_public_rooms(
    call: Call, query: ServerQuery, body: SearchBody = SearchBody()
) -> JsonObject:
    """A page of the rooms in the directory that pass a filter."""
    server = _other_server(call, query)
    if server is not None:
        return await call.app.remote_directory.public_rooms(server, _given(to_builtins(body)))
    if body.third_party_instance_id is not None and body.include_all_networks:
        raise MatrixError.invalid_param("third_party_instance_id: all networks are asked for")
    wanted = body.filter or DirectoryFilter()
    types = None if wanted.room_types is None else frozenset(wanted.room_types)
    wanted_page = DirectoryQuery(body.limit, body.since, wanted.generic_search_term, types)
    if body.third_party_instance_id is not None:
        listed = await call.app.network_rooms.of(body.third_party_instance_id)
        return await call.app.public_rooms.page_of(listed, wanted_page)
    return await call.app.public_rooms.page(wanted_page)


def _other_server(call: Call, query: ServerQuery) -> str | None:
    """The other server whose directory is asked for; only users make this server ask others."""
    if query.server in (None, call.app.config.server.name):
        return None
    if call.maybe_session is None:
        raise MatrixError("M_MISSING_TOKEN", "An access token is needed", 401)
    return query.server


def _given(body: JsonObject) -> JsonObject:
    return {key: value for key, value in body.items() if value is not None}
