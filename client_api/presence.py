"""Who is online.

spec: client-server-api#presence
"""

from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Empty, Shape, UserID
from homeserver.matrix.canonical import JsonObject
from homeserver.users.presence import State


class PresenceBody(Shape):
    presence: State
    status_msg: str | None = None


@endpoint(
    "GET /_matrix/client/v3/presence/{user_id}/status",
    spec="client-server-api#get_matrixclientv3presenceuseridstatus",
    auth=Client(),
)
async def get_presence(call: Call, user_id: UserID) -> JsonObject:
    """The presence of a user with whom one shares a room, or one's own."""
    return await call.app.presence_news.content(call.session, user_id)


@endpoint(
    "PUT /_matrix/client/v3/presence/{user_id}/status",
    spec="client-server-api#put_matrixclientv3presenceuseridstatus",
    auth=Client(),
    limit="signal",
)
async def put_presence(call: Call, user_id: UserID, body: PresenceBody) -> Empty:
    """Say whether one is there, and why not."""
    if user_id != call.session.user_id:
        raise MatrixError.forbidden("You can only set your own presence")
    call.app.presence.set(call.session, body.presence, body.status_msg)
    return Empty()
