"""How it stands with the keys of devices, for administrators and the command line.

Not part of the specification, nor of what tools of the field use: paths and fields are ours.
"""

from homeserver.http.endpoint import Admin, Call, endpoint
from homeserver.http.shape import UserID
from homeserver.matrix.canonical import JsonObject


@endpoint("GET /_homeserver/admin/v1/e2ee", spec="", auth=Admin(), limit="none")
async def show_encryption(call: Call) -> JsonObject:
    """Devices without keys, empty pools of one-time keys, stale lists, and what waits."""
    return await call.app.encryption.health.whole()


@endpoint("GET /_homeserver/admin/v1/e2ee/{user_id}", spec="", auth=Admin(), limit="none")
async def show_encryption_of(call: Call, user_id: UserID) -> JsonObject:
    """The same of one user's devices."""
    return await call.app.encryption.health.user(user_id)
