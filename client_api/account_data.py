"""Account data, global and of a room.

spec: client-server-api#client-config
"""

from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Empty, Raw, RoomID, UserID
from homeserver.matrix.canonical import JsonObject
from homeserver.users.account_data import GLOBAL

_UNSTABLE = "/_matrix/client/unstable/org.matrix.msc3391"


@endpoint(
    "GET /_matrix/client/v3/user/{user_id}/account_data/{type}",
    spec="client-server-api#get_matrixclientv3useruseridaccount_datatype",
    auth=Client(guests=True),
)
async def get_account_data(call: Call, user_id: UserID, type: str) -> Raw:  # noqa: A002
    """One piece of global account data."""
    check_own(call, user_id)
    return Raw(await call.app.account_data.get(call.session, GLOBAL, type))


@endpoint(
    "PUT /_matrix/client/v3/user/{user_id}/account_data/{type}",
    spec="client-server-api#put_matrixclientv3useruseridaccount_datatype",
    auth=Client(guests=True),
)
async def put_account_data(
    call: Call,
    user_id: UserID,
    type: str,  # noqa: A002
    body: JsonObject,
) -> Empty:
    """Set global account data."""
    check_own(call, user_id)
    await call.app.account_data.put(call.session.user_nid, GLOBAL, type, body)
    return Empty()


@endpoint(
    "GET /_matrix/client/v3/user/{user_id}/rooms/{room_id}/account_data/{type}",
    spec="client-server-api#get_matrixclientv3useruseridroomsroomidaccount_datatype",
    auth=Client(guests=True),
)
async def get_room_account_data(
    call: Call,
    user_id: UserID,
    room_id: RoomID,
    type: str,  # noqa: A002
) -> Raw:
    """One piece of a room's account data."""
    check_own(call, user_id)
    room = await call.app.own_rooms.known(call.session.user_nid, room_id)
    return Raw(await call.app.account_data.get(call.session, room.nid, type))


@endpoint(
    "PUT /_matrix/client/v3/user/{user_id}/rooms/{room_id}/account_data/{type}",
    spec="client-server-api#put_matrixclientv3useruseridroomsroomidaccount_datatype",
    auth=Client(guests=True),
)
async def put_room_account_data(
    call: Call,
    user_id: UserID,
    room_id: RoomID,
    type: str,  # noqa: A002
    body: JsonObject,
) -> Empty:
    """Set a room's account data."""
    check_own(call, user_id)
    room = await call.app.own_rooms.known(call.session.user_nid, room_id)
    await call.app.account_data.put(call.session.user_nid, room.nid, type, body)
    return Empty()


@endpoint(
    "DELETE /_matrix/client/v3/user/{user_id}/account_data/{type}",
    spec="client-server-api#client-config",
    auth=Client(guests=True),
    also=[f"{_UNSTABLE}/user/{{user_id}}/account_data/{{type}}"],
)
async def delete_account_data(call: Call, user_id: UserID, type: str) -> Empty:  # noqa: A002
    """Delete global account data."""
    check_own(call, user_id)
    await call.app.account_data.delete(call.session.user_nid, GLOBAL, type)
    return Empty()


@endpoint(
    "DELETE /_matrix/client/v3/user/{user_id}/rooms/{room_id}/account_data/{type}",
    spec="client-server-api#client-config",
    auth=Client(guests=True),
    also=[f"{_UNSTABLE}/user/{{user_id}}/rooms/{{room_id}}/account_data/{{type}}"],
)
async def delete_room_account_data(
    call: Call,
    user_id: UserID,
    room_id: RoomID,
    type: str,  # noqa: A002
) -> Empty:
    """Delete a room's account data."""
    check_own(call, user_id)
    room = await call.app.own_rooms.known(call.session.user_nid, room_id)
    await call.app.account_data.delete(call.session.user_nid, room.nid, type)
    return Empty()


def check_own(call: Call, user_id: str) -> None:
    """Raise `MatrixError` M_FORBIDDEN when a path names somebody else."""
    if user_id != call.session.user_id:
        raise MatrixError.forbidden("This belongs to another user")
