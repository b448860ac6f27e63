"""Logging in and out.

spec: client-server-api#legacy-login
"""

from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, Client, NoAuth, endpoint
from homeserver.http.shape import Empty, Shape
from homeserver.matrix.canonical import JsonObject
from homeserver.users.sessions import DeviceRequest

PASSWORD = "m.login.password"


class Flow(Shape):
    type: str


class Flows(Shape):
    flows: list[Flow]


@endpoint(
    "GET /_matrix/client/v3/login",
    spec="client-server-api#get_matrixclientv3login",
    auth=NoAuth(),
)
async def login_flows(call: Call) -> Flows:
    """The ways to log in."""
    return Flows([Flow(PASSWORD)])


class LoginBody(Shape):
    type: str
    identifier: JsonObject | None = None
    user: str | None = None
    medium: str | None = None
    address: str | None = None
    password: str | None = None
    device_id: str | None = None
    initial_device_display_name: str | None = None
    refresh_token: bool | None = None


class LoggedIn(Shape):
    user_id: str
    access_token: str
    device_id: str
    home_server: str


@endpoint(
    "POST /_matrix/client/v3/login",
    spec="client-server-api#post_matrixclientv3login",
    auth=NoAuth(),
    limit="login_address",
)
async def login(call: Call, body: LoginBody) -> LoggedIn:
    """Log in by password."""
    if body.type != PASSWORD:
        raise MatrixError("M_UNKNOWN", "type: this server does not know that way to log in", 400)
    if body.password is None:
        raise MatrixError.missing_param("password is missing")
    named = {"identifier": body.identifier, "user": body.user, "medium": body.medium}
    user = await call.app.logins.check(named, body.password)
    device = DeviceRequest(body.device_id, body.initial_device_display_name)
    begun = await call.app.sessions.begin(user.user_nid, device)
    server_name = call.app.config.server.name
    user_id = f"@{user.localpart}:{server_name}"
    return LoggedIn(user_id, begun.access_token, begun.device_id, server_name)


@endpoint(
    "POST /_matrix/client/v3/logout",
    spec="client-server-api#post_matrixclientv3logout",
    auth=Client(guests=True),
)
async def logout(call: Call) -> Empty:
    """End this session and remove its device."""
    await call.app.sessions.end(call.session)
    return Empty()


@endpoint(
    "POST /_matrix/client/v3/logout/all",
    spec="client-server-api#post_matrixclientv3logoutall",
    auth=Client(guests=True),
)
async def logout_all(call: Call) -> Empty:
    """End all sessions of the user and remove their devices."""
    await call.app.sessions.end_devices(call.session.user_nid, None)
    return Empty()
