"""Profiles.

spec: client-server-api#profiles
"""

from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, Client, NoAuth, endpoint
from homeserver.http.shape import Empty, UserID
from homeserver.matrix.canonical import JsonObject


@endpoint(
    "GET /_matrix/client/v3/profile/{user_id}",
    spec="client-server-api#get_matrixclientv3profileuserid",
    auth=NoAuth(),
)
async def get_profile(call: Call, user_id: UserID) -> JsonObject:
    """All of a user's profile."""
    return await call.app.profiles.of(user_id)


@endpoint(
    "GET /_matrix/client/v3/profile/{user_id}/{key_name}",
    spec="client-server-api#get_matrixclientv3profileuseridkeyname",
    auth=NoAuth(),
)
async def get_profile_field(call: Call, user_id: UserID, key_name: str) -> JsonObject:
    """One field of a user's profile."""
    return await call.app.profiles.field(user_id, key_name)


@endpoint(
    "PUT /_matrix/client/v3/profile/{user_id}/{key_name}",
    spec="client-server-api#put_matrixclientv3profileuseridkeyname",
    auth=Client(guests=True, suspended=False),
)
async def put_profile_field(call: Call, user_id: UserID, key_name: str, body: JsonObject) -> Empty:
    """Set a field of one's own profile."""
    _check_own(call, user_id, key_name)
    await call.app.profiles.put(call.session.user_nid, key_name, body)
    return Empty()


@endpoint(
    "DELETE /_matrix/client/v3/profile/{user_id}/{key_name}",
    spec="client-server-api#delete_matrixclientv3profileuseridkeyname",
    auth=Client(guests=True, suspended=False),
)
async def delete_profile_field(call: Call, user_id: UserID, key_name: str) -> Empty:
    """Take a field away from one's own profile."""
    _check_own(call, user_id, key_name)
    await call.app.profiles.delete(call.session.user_nid, key_name)
    return Empty()


def _check_own(call: Call, user_id: str, key_name: str) -> None:
    if user_id != call.session.user_id:
        raise MatrixError.forbidden("You can only change your own profile")
    if call.session.is_guest and key_name != "displayname":
        raise MatrixError("M_GUEST_ACCESS_FORBIDDEN", "Guests have a display name only", 403)
