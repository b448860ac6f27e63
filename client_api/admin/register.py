"""Registration by shared secret, as the tools of the field do it.

Not part of the specification: the paths and fields are those that administration tools and test
suites expect of a homeserver.
"""

from homeserver.http.endpoint import Call, NoAuth, endpoint
from homeserver.http.shape import Reply, Shape
from homeserver.users.accounts import NewAccount
from homeserver.users.sessions import DeviceRequest


class Nonce(Shape):
    nonce: str


@endpoint("GET /_synapse/admin/v1/register", spec="", auth=NoAuth())
async def get_nonce(call: Call) -> Nonce:
    """A nonce, good once and for a minute."""
    return Nonce(call.app.shared_secret.nonce())


class SecretBody(Shape):
    nonce: str
    username: str
    password: str
    mac: str
    admin: bool | None = None
    displayname: str | None = None
    user_type: str | None = None
    inhibit_login: bool | None = None


class Made(Reply):
    user_id: str
    home_server: str
    access_token: str | None = None
    device_id: str | None = None


@endpoint("POST /_synapse/admin/v1/register", spec="", auth=NoAuth())
async def register(call: Call, body: SecretBody) -> Made:
    """Make an account, proven by the code over nonce, name, password and rank."""
    new = NewAccount(
        localpart=body.username,
        password=body.password,
        admin=bool(body.admin),
        displayname=body.displayname,
        device=None if body.inhibit_login else DeviceRequest(),
    )
    made = await call.app.shared_secret.register(new, body.nonce, body.mac, body.user_type)
    reply = Made(made.user_id, call.app.config.server.name)
    if made.session is not None:
        reply.access_token = made.session.access_token
        reply.device_id = made.session.device_id
    return reply
