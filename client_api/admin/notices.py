"""What administrators have the server tell its users.

Not part of the specification: the paths and fields are those that administration tools of the field
use; `pinned`, `room_id` in the answer and the end of a pinned notice are ours.
"""

from homeserver.errors import MatrixError
from homeserver.http.endpoint import Admin, Call, endpoint
from homeserver.http.shape import Empty, EventID, Shape, UserID
from homeserver.matrix.canonical import JsonObject
from homeserver.rooms.server_notices import Notice, Request


class NoticeBody(Shape):
    user_id: UserID
    content: JsonObject
    type: str = "m.room.message"
    state_key: str | None = None
    pinned: bool = False


class Sent(Shape):
    event_id: str
    room_id: str


@endpoint("POST /_synapse/admin/v1/send_server_notice", spec="", auth=Admin(), limit="none")
async def send_notice(call: Call, body: NoticeBody) -> Sent:
    """Tell a user something in the user's room for notices."""
    return await _send(call, body, None)


@endpoint("PUT /_synapse/admin/v1/send_server_notice/{txn_id}", spec="", auth=Admin(), limit="none")
async def put_notice(call: Call, txn_id: str, body: NoticeBody) -> Sent:
    """Tell a user something, once for each transaction id."""
    if len(txn_id.encode()) > 255:
        raise MatrixError.invalid_param("txnId: longer than 255 bytes")
    session = call.maybe_session
    asker = "" if session is None else f"{session.user_id} {session.device_id}"
    return await _send(call, body, Request(asker, txn_id))


@endpoint(
    "DELETE /_homeserver/admin/v1/notices/{user_id}/{event_id}",
    spec="",
    auth=Admin(),
    limit="none",
)
async def unpin_notice(call: Call, user_id: UserID, event_id: EventID) -> Empty:
    """End a pinned notice; the message stays."""
    target = await call.app.user_list.row(user_id)
    await call.app.chapters.server_notices.unpin(target, event_id)
    return Empty()


async def _send(call: Call, body: NoticeBody, request: Request | None) -> Sent:
    target = await call.app.user_list.row(body.user_id)
    notice = Notice(body.content, body.type, body.state_key, body.pinned)
    told = await call.app.chapters.server_notices.send(target, notice, request)
    return Sent(told.event_id, told.room_id)
