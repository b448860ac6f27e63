"""What administrators see and decide of accounts.

spec: client-server-api#server-administration
"""

from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Shape, UserID
from homeserver.matrix.canonical import JsonObject


@endpoint(
    "GET /_matrix/client/v3/admin/whois/{user_id}",
    spec="client-server-api#get_matrixclientv3adminwhoisuserid",
    auth=Client(),
)
async def whois(call: Call, user_id: UserID) -> JsonObject:
    """Where a user's devices were last seen."""
    return await call.app.moderation.whois(call.session, user_id)


class Suspension(Shape):
    suspended: bool


@endpoint(
    "GET /_matrix/client/v1/admin/suspend/{user_id}",
    spec="client-server-api#get_matrixclientv1adminsuspenduserid",
    auth=Client(),
)
async def get_suspended(call: Call, user_id: UserID) -> Suspension:
    """Whether a user is suspended."""
    return Suspension(await call.app.moderation.get(call.session, user_id, "suspended"))


@endpoint(
    "PUT /_matrix/client/v1/admin/suspend/{user_id}",
    spec="client-server-api#put_matrixclientv1adminsuspenduserid",
    auth=Client(),
)
async def put_suspended(call: Call, user_id: UserID, body: Suspension) -> Suspension:
    """Suspend a user, or take that back."""
    await call.app.moderation.put(call.session, user_id, "suspended", body.suspended)
    return body


class Lock(Shape):
    locked: bool


@endpoint(
    "GET /_matrix/client/v1/admin/lock/{user_id}",
    spec="client-server-api#get_matrixclientv1adminlockuserid",
    auth=Client(),
)
async def get_locked(call: Call, user_id: UserID) -> Lock:
    """Whether a user is locked."""
    return Lock(await call.app.moderation.get(call.session, user_id, "locked"))


@endpoint(
    "PUT /_matrix/client/v1/admin/lock/{user_id}",
    spec="client-server-api#put_matrixclientv1adminlockuserid",
    auth=Client(),
)
async def put_locked(call: Call, user_id: UserID, body: Lock) -> Lock:
    """Lock a user, or take that back."""
    await call.app.moderation.put(call.session, user_id, "locked", body.locked)
    return body
