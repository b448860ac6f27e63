"""Pushers.

spec: client-server-api#push-notifications
"""

from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Empty
from homeserver.matrix.canonical import JsonObject


@endpoint(
    "GET /_matrix/client/v3/pushers",
    spec="client-server-api#get_matrixclientv3pushers",
    auth=Client(),
)
async def get_pushers(call: Call) -> JsonObject:
    """The user's pushers."""
    return {"pushers": await call.app.pushers.of(call.session.user_nid)}


@endpoint(
    "POST /_matrix/client/v3/pushers/set",
    spec="client-server-api#post_matrixclientv3pushersset",
    auth=Client(),
)
async def set_pusher(call: Call, body: JsonObject) -> Empty:
    """Set or remove a pusher."""
    await call.app.pushers.set(call.session, body)
    return Empty()
