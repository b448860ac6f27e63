"""Where servers find this server: on every listener, as any of them may be the one at port 443.

spec: server-server-api#getwell-knownmatrixserver
"""

from urllib.parse import urlsplit

from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, NoAuth, endpoint
from homeserver.matrix.canonical import JsonObject


@endpoint(
    "GET /.well-known/matrix/server",
    spec="server-server-api#getwell-knownmatrixserver",
    auth=NoAuth(),
)
async def get_server(call: Call) -> JsonObject:
    """The address for servers, which is that for clients as long as it speaks TLS."""
    url = urlsplit(base_url(call))
    if url.scheme != "https" or url.hostname is None:
        raise MatrixError.not_found("This server is reached under its own name")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return {"m.server": f"{host}:{url.port or 443}"}


def base_url(call: Call) -> str:
    """The address of this server for clients, without a slash at the end."""
    server = call.app.config.server
    return server.public_base_url or f"https://{server.name}"
