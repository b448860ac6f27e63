"""Where clients find this server, and whom its users ask.

spec: client-server-api#well-known-uris
"""

from client_api.server_location import base_url
from client_api.voip import transports
from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, NoAuth, endpoint
from homeserver.matrix.canonical import JsonObject


@endpoint(
    "GET /.well-known/matrix/client",
    spec="client-server-api#getwell-knownmatrixclient",
    auth=NoAuth(),
)
async def get_client(call: Call) -> JsonObject:
    """The address for clients."""
    found: JsonObject = {"m.homeserver": {"base_url": base_url(call)}}
    foci = transports(call.app.config.calls)
    if foci:
        found["org.matrix.msc4143.rtc_foci"] = foci
    return found


@endpoint(
    "GET /.well-known/matrix/support",
    spec="client-server-api#getwell-knownmatrixsupport",
    auth=NoAuth(),
)
async def get_support(call: Call) -> JsonObject:
    """Whom to ask about this server."""
    support = call.app.config.support
    contacts = [
        {"role": role, **{key: value for key, value in ways.items() if value}}
        for role, ways in (
            ("m.role.admin", _ways(support.admin_user, support.admin_email)),
            ("m.role.security", _ways(support.security_user, support.security_email)),
        )
        if any(ways.values())
    ]
    reply: JsonObject = {"contacts": contacts} if contacts else {}
    if support.page:
        reply["support_page"] = support.page
    if not reply:
        raise MatrixError.not_found("This server says nothing about its support")
    return reply


def _ways(user_id: str, address: str) -> dict[str, str]:
    return {"matrix_id": user_id, "email_address": address}
