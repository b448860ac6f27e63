"""Devices of our users and their keys, for other servers.

spec: server-server-api#device-management, server-server-api#end-to-end-encryption
"""

from homeserver.http.endpoint import Call, Server, endpoint
from homeserver.http.shape import Shape, UserID
from homeserver.matrix.canonical import JsonObject


class QueryBody(Shape):
    device_keys: dict[str, list[str]]


class ClaimBody(Shape):
    one_time_keys: dict[str, dict[str, str]]


@endpoint(
    "GET /_matrix/federation/v1/user/devices/{user_id}",
    spec="server-server-api#get_matrixfederationv1userdevicesuserid",
    auth=Server(),
)
async def get_devices(call: Call, user_id: UserID) -> JsonObject:
    """All devices of a user that have keys."""
    return await call.app.encryption.shown.devices(user_id)


@endpoint(
    "POST /_matrix/federation/v1/user/keys/query",
    spec="server-server-api#post_matrixfederationv1userkeysquery",
    auth=Server(),
)
async def query_keys(call: Call, body: QueryBody) -> JsonObject:
    """Keys of users and their devices."""
    return await call.app.encryption.shown.keys(body.device_keys)


@endpoint(
    "POST /_matrix/federation/v1/user/keys/claim",
    spec="server-server-api#post_matrixfederationv1userkeysclaim",
    auth=Server(),
)
async def claim_keys(call: Call, body: ClaimBody) -> JsonObject:
    """One-time keys of devices, each given out once."""
    found = await call.app.encryption.keys.claim_local(body.one_time_keys)
    return {"one_time_keys": found}
