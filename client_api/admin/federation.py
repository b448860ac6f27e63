"""Other servers, for administrators and the command line.

Not part of the specification, nor of what tools of the field use: paths and fields are ours.
"""

from homeserver.http.endpoint import Admin, Call, endpoint
from homeserver.http.shape import Empty, Shape
from homeserver.matrix.canonical import JsonObject


class PeersQuery(Shape):
    all: bool = False


class Servers(Shape):
    servers: list[JsonObject]


@endpoint("GET /_homeserver/admin/v1/federation", spec="", auth=Admin(), limit="none")
async def list_servers(call: Call, query: PeersQuery) -> Servers:
    """The other servers that are blocked, fail, or lack something; or all of them."""
    return Servers(await call.app.peers.peers(everyone=query.all))


@endpoint("GET /_homeserver/admin/v1/federation/{server}", spec="", auth=Admin(), limit="none")
async def show_server(call: Call, server: str) -> JsonObject:
    """How it goes with another server, where it is, and what waits for it."""
    return await call.app.peers.peer(server)


@endpoint(
    "POST /_homeserver/admin/v1/federation/{server}/retry", spec="", auth=Admin(), limit="none"
)
async def retry_server(call: Call, server: str) -> Empty:
    """Try another server at once."""
    await call.app.peers.retry(server)
    return Empty()


@endpoint(
    "POST /_homeserver/admin/v1/federation/{server}/block", spec="", auth=Admin(), limit="none"
)
async def block_server(call: Call, server: str) -> Empty:
    """Neither ask nor answer another server any more."""
    await call.app.peers.block(server)
    return Empty()


@endpoint(
    "POST /_homeserver/admin/v1/federation/{server}/allow", spec="", auth=Admin(), limit="none"
)
async def allow_server(call: Call, server: str) -> Empty:
    """Speak with another server again."""
    await call.app.peers.allow(server)
    return Empty()
