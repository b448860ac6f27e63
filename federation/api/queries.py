"""Questions of other servers about users, aliases and public rooms; who an OpenID token is of.

spec: server-server-api#querying-for-information, server-server-api#public-room-directory
"""

from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, NoAuth, Server, endpoint
from homeserver.http.shape import Natural, RoomAlias, Shape, UserID
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.ids import server_of
from homeserver.rooms.public_rooms import DirectoryQuery


class ProfileQuery(Shape):
    user_id: UserID
    field: str | None = None


class AliasQuery(Shape):
    room_alias: RoomAlias


class AliasReply(Shape):
    room_id: str
    servers: list[str]


class ListQuery(Shape):
    limit: Natural | None = None
    since: str | None = None
    third_party_instance_id: str | None = None


class DirectoryFilter(Shape):
    generic_search_term: str | None = None
    room_types: list[str | None] | None = None


class SearchBody(ListQuery):
    filter: DirectoryFilter | None = None


class TokenQuery(Shape):
    access_token: str | None = None


class TokenReply(Shape):
    sub: str


@endpoint(
    "GET /_matrix/federation/v1/query/profile",
    spec="server-server-api#get_matrixfederationv1queryprofile",
    auth=Server(),
)
async def get_profile(call: Call, query: ProfileQuery) -> JsonObject:
    """The profile of one of our users."""
    _check_ours(call, query.user_id)
    if query.field is not None:
        return await call.app.profiles.field(query.user_id, query.field)
    return await call.app.profiles.of(query.user_id)


@endpoint(
    "GET /_matrix/federation/v1/query/directory",
    spec="server-server-api#get_matrixfederationv1querydirectory",
    auth=Server(),
)
async def get_alias(call: Call, query: AliasQuery) -> AliasReply:
    """The room that an alias of ours stands for."""
    _check_ours(call, query.room_alias)
    return AliasReply(*await call.app.directory.locate(query.room_alias))


@endpoint(
    "GET /_matrix/federation/v1/publicRooms",
    spec="server-server-api#get_matrixfederationv1publicrooms",
    auth=Server(),
    limit="server_read_heavy",
)
async def get_public_rooms(call: Call, query: ListQuery) -> JsonObject:
    """A page of our directory."""
    return await _page(call, query, DirectoryFilter())


@endpoint(
    "POST /_matrix/federation/v1/publicRooms",
    spec="server-server-api#post_matrixfederationv1publicrooms",
    auth=Server(),
    limit="server_read_heavy",
)
async def search_public_rooms(call: Call, body: SearchBody = SearchBody()) -> JsonObject:
    """A page of the rooms in our directory that pass a filter."""
    return await _page(call, body, body.filter or DirectoryFilter())


@endpoint(
    "GET /_matrix/federation/v1/openid/userinfo",
    spec="server-server-api#get_matrixfederationv1openiduserinfo",
    auth=NoAuth(),
    limit="read_heavy",
)
async def get_user_of_token(call: Call, query: TokenQuery) -> TokenReply:
    """Whose OpenID token this is."""
    if query.access_token is None:
        raise MatrixError("M_MISSING_TOKEN", "An access token is needed", 401)
    return TokenReply(await call.app.openid.user_of(query.access_token))


def _check_ours(call: Call, identifier: str) -> None:
    if server_of(identifier) != call.app.config.server.name:
        raise MatrixError.invalid_param("That belongs to another server")


async def _page(call: Call, query: ListQuery, wanted: DirectoryFilter) -> JsonObject:
    if query.third_party_instance_id is not None:
        return {"chunk": [], "total_room_count_estimate": 0}
    types = None if wanted.room_types is None else frozenset(wanted.room_types)
    return await call.app.public_rooms.page(
        DirectoryQuery(query.limit, query.since, wanted.generic_search_term, types)
    )
