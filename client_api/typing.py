"""Typing notifications.

spec: client-server-api#typing-notifications
"""

from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Empty, Int, RoomID, Shape, UserID


class TypingBody(Shape):
    typing: bool
    timeout: Int | None = None


DEFAULT_TIMEOUT_MS = 30_000


@endpoint(
    "PUT /_matrix/client/v3/rooms/{room_id}/typing/{user_id}",
    spec="client-server-api#put_matrixclientv3roomsroomidtypinguserid",
    auth=Client(guests=True),
    limit="signal",
)
async def put_typing(call: Call, room_id: RoomID, user_id: UserID, body: TypingBody) -> Empty:
    """Say whether the user is typing."""
    if user_id != call.session.user_id:
        raise MatrixError.forbidden("You can only set your own typing state")
    room = await call.app.own_rooms.joined(call.session.user_nid, room_id)
    if body.typing:
        call.app.presence.active(call.session)
        timeout = DEFAULT_TIMEOUT_MS if body.timeout is None else body.timeout
        call.app.typing.start(room.nid, user_id, timeout)
    else:
        call.app.typing.stop(room.nid, user_id)
    return Empty()
