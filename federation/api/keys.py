"""Keys of this server, and of others by its word.

spec: server-server-api#retrieving-server-keys
"""

from federation.notary import NotaryService
from federation.own_keys import OwnKeys
from homeserver.http.endpoint import Call, Endpoint, NoAuth, endpoint, endpoint_of
from homeserver.http.shape import Natural, ServerName, Shape
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.ids import is_server_name


class Wanted(Shape):
    minimum_valid_until_ts: Natural | None = None


class KeyQuery(Shape):
    server_keys: dict[str, dict[str, Wanted]]


class Found(Shape):
    server_keys: list[JsonObject]


def key_endpoints(own: OwnKeys, notary: NotaryService) -> list[Endpoint]:
    """The endpoints on keys."""

    @endpoint(
        "GET /_matrix/key/v2/server",
        spec="server-server-api#get_matrixkeyv2server",
        auth=NoAuth(),
    )
    async def get_keys(call: Call) -> JsonObject:
        """The keys of this server."""
        return own.published()

    @endpoint(
        "GET /_matrix/key/v2/server/{key_id}",
        spec="server-server-api#get_matrixkeyv2server",
        auth=NoAuth(),
    )
    async def get_keys_with(call: Call, key_id: str = "") -> JsonObject:
        """The same for older servers, which name one key."""
        return own.published()

    @endpoint(
        "GET /_matrix/key/v2/query/{server_name}",
        spec="server-server-api#get_matrixkeyv2queryservername",
        auth=NoAuth(),
    )
    async def get_keys_of(call: Call, server_name: ServerName, query: Wanted) -> Found:
        """The keys of another server."""
        return Found(await notary.of_server(server_name, query.minimum_valid_until_ts))

    @endpoint(
        "POST /_matrix/key/v2/query",
        spec="server-server-api#post_matrixkeyv2query",
        auth=NoAuth(),
    )
    async def query_keys(call: Call, body: KeyQuery) -> Found:
        """The keys of several servers."""
        wanted = {
            server: {key_id: one.minimum_valid_until_ts for key_id, one in keys.items()}
            for server, keys in body.server_keys.items()
            if is_server_name(server)
        }
        return Found(await notary.answers(wanted))

    return [endpoint_of(one) for one in (get_keys, get_keys_with, get_keys_of, query_keys)]
