"""Keys of devices and users.

spec: client-server-api#device-keys
"""

from typing import Annotated, Any

import msgspec

from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Empty, Raw, Shape
from homeserver.matrix.canonical import JsonObject

_LONGEST_MS = 5_000
"""Nobody is let wait longer for other servers, whatever was asked for."""
Timeout = Annotated[int, msgspec.Meta(ge=0)]


class UploadBody(Shape):
    device_keys: JsonObject | None = None
    one_time_keys: JsonObject | None = None
    fallback_keys: JsonObject | None = None
    # What clients called it before it was specified (MSC2732).
    old_fallback_keys: JsonObject | None = msgspec.field(
        default=None, name="org.matrix.msc2732.fallback_keys"
    )


class Counts(Shape):
    one_time_key_counts: dict[str, int]


@endpoint(
    "POST /_matrix/client/v3/keys/upload",
    spec="client-server-api#post_matrixclientv3keysupload",
    auth=Client(guests=True),
)
async def upload_keys(call: Call, body: UploadBody) -> Counts:
    """Publish keys of the client's device."""
    counts = await call.app.encryption.keys.upload(
        call.session,
        body.device_keys,
        body.one_time_keys or {},
        body.fallback_keys or body.old_fallback_keys or {},
    )
    return Counts({"signed_curve25519": 0, **counts})


class QueryBody(Shape):
    device_keys: dict[str, list[str]]
    timeout: Timeout = _LONGEST_MS


@endpoint(
    "POST /_matrix/client/v3/keys/query",
    spec="client-server-api#post_matrixclientv3keysquery",
    auth=Client(guests=True),
    limit="read_heavy",
)
async def query_keys(call: Call, body: QueryBody) -> Raw:
    """The keys of users' devices, and of the users themselves."""
    timeout = min(body.timeout, _LONGEST_MS) / 1000
    return Raw(await call.app.encryption.keys.query(call.session, body.device_keys, timeout))


class ClaimBody(Shape):
    one_time_keys: dict[str, dict[str, str]]
    timeout: Timeout = _LONGEST_MS


@endpoint(
    "POST /_matrix/client/v3/keys/claim",
    spec="client-server-api#post_matrixclientv3keysclaim",
    auth=Client(guests=True),
    limit="read_heavy",
)
async def claim_keys(call: Call, body: ClaimBody) -> JsonObject:
    """One-time keys of devices, each given out once."""
    timeout = min(body.timeout, _LONGEST_MS) / 1000
    return await call.app.encryption.keys.claim(body.one_time_keys, timeout)


class ChangesQuery(Shape):
    start: str = msgspec.field(name="from")
    to: str


@endpoint(
    "GET /_matrix/client/v3/keys/changes",
    spec="client-server-api#get_matrixclientv3keyschanges",
    auth=Client(guests=True),
    limit="read_heavy",
)
async def get_changes(call: Call, query: ChangesQuery) -> JsonObject:
    """Whose keys changed between two syncs."""
    return await call.app.encryption.changes.between(call.session, query.start, query.to)


class SigningBody(Shape):
    master_key: JsonObject | None = None
    self_signing_key: JsonObject | None = None
    user_signing_key: JsonObject | None = None
    auth: JsonObject | None = None


@endpoint(
    "POST /_matrix/client/v3/keys/device_signing/upload",
    spec="client-server-api#post_matrixclientv3keysdevice_signingupload",
    auth=Client(),
)
async def upload_signing_keys(call: Call, body: SigningBody) -> Empty:
    """Publish the user's cross-signing keys."""
    given = {
        "master": body.master_key,
        "self_signing": body.self_signing_key,
        "user_signing": body.user_signing_key,
    }
    present = {usage: key for usage, key in given.items() if key is not None}
    await call.app.encryption.cross_signing.upload(call.session, present, body.auth)
    return Empty()


@endpoint(
    "POST /_matrix/client/v3/keys/signatures/upload",
    spec="client-server-api#post_matrixclientv3keyssignaturesupload",
    auth=Client(),
)
async def upload_signatures(call: Call, body: JsonObject) -> JsonObject:
    """Publish signatures on keys."""
    given: dict[str, Any] = {user_id: keys for user_id, keys in body.items() if user_id[:1] == "@"}
    if not all(isinstance(keys, dict) for keys in given.values()):
        raise MatrixError.bad_json("The signed keys of a user are an object")
    return {"failures": await call.app.encryption.cross_signing.sign(call.session, given)}
