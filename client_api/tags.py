"""Tags of rooms.

spec: client-server-api#room-tagging
"""

from client_api.account_data import check_own
from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Empty, RoomID, UserID
from homeserver.matrix.canonical import JsonObject


@endpoint(
    "GET /_matrix/client/v3/user/{user_id}/rooms/{room_id}/tags",
    spec="client-server-api#get_matrixclientv3useruseridroomsroomidtags",
    auth=Client(),
)
async def get_tags(call: Call, user_id: UserID, room_id: RoomID) -> JsonObject:
    """The tags of a room."""
    check_own(call, user_id)
    room = await call.app.own_rooms.known(call.session.user_nid, room_id)
    return {"tags": await call.app.account_data.tags(call.session.user_nid, room.nid)}


@endpoint(
    "PUT /_matrix/client/v3/user/{user_id}/rooms/{room_id}/tags/{tag}",
    spec="client-server-api#put_matrixclientv3useruseridroomsroomidtagstag",
    auth=Client(),
)
async def put_tag(
    call: Call, user_id: UserID, room_id: RoomID, tag: str, body: JsonObject
) -> Empty:
    """Put a tag on a room."""
    check_own(call, user_id)
    room = await call.app.own_rooms.known(call.session.user_nid, room_id)
    await call.app.account_data.put_tag(call.session.user_nid, room.nid, tag, body)
    return Empty()


@endpoint(
    "DELETE /_matrix/client/v3/user/{user_id}/rooms/{room_id}/tags/{tag}",
    spec="client-server-api#delete_matrixclientv3useruseridroomsroomidtagstag",
    auth=Client(),
)
async def delete_tag(call: Call, user_id: UserID, room_id: RoomID, tag: str) -> Empty:
    """Take a tag off a room."""
    check_own(call, user_id)
    room = await call.app.own_rooms.known(call.session.user_nid, room_id)
    await call.app.account_data.delete_tag(call.session.user_nid, room.nid, tag)
    return Empty()
