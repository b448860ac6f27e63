"""Logging in and out.

spec: client-server-api#legacy-login
"""

from client_api.appservices import service_of
from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, Client, NoAuth, endpoint
from homeserver.http.shape import Empty, Reply, Shape
from homeserver.matrix.canonical import JsonObject
from homeserver.users.login_tokens import LIFETIME_MS
from homeserver.users.sessions import DeviceRequest

APPLICATION_SERVICE = "m.login.application_service"
PASSWORD = "m.login.password"
TOKEN = "m.login.token"


class Flow(Reply):
    type: str
    get_login_token: bool = False


class Flows(Shape):
    flows: list[Flow]


@endpoint(
    "GET /_matrix/client/v3/login",
    spec="client-server-api#get_matrixclientv3login",
    auth=NoAuth(),
)
async def login_flows(call: Call) -> Flows:
    """The ways to log in."""
    tokens = [Flow(TOKEN, True)] if call.app.config.sessions.login_tokens else []
    services = [Flow(APPLICATION_SERVICE)] if call.app.appservices.registry.all() else []
    return Flows([Flow(PASSWORD), *tokens, *services])


class LoginBody(Shape):
    type: str
    identifier: JsonObject | None = None
    user: str | None = None
    medium: str | None = None
    address: str | None = None
    password: str | None = None
    token: str | None = None
    device_id: str | None = None
    initial_device_display_name: str | None = None
    refresh_token: bool | None = None


class LoggedIn(Reply):
    user_id: str
    access_token: str
    device_id: str
    home_server: str
    refresh_token: str | None = None
    expires_in_ms: int | None = None


@endpoint(
    "POST /_matrix/client/v3/login",
    spec="client-server-api#post_matrixclientv3login",
    auth=NoAuth(),
    limit="login_address",
)
async def login(call: Call, body: LoginBody) -> LoggedIn:
    """Log in by password, by a login token, or as a user of an application service."""
    name, refreshes = body.initial_device_display_name, bool(body.refresh_token)
    device = DeviceRequest(body.device_id, name, refreshes)
    if body.type == TOKEN and call.app.config.sessions.login_tokens:
        if body.token is None:
            raise MatrixError.missing_param("token is missing")
        user, begun = await call.app.login_tokens.log_in(body.token, device)
    elif body.type == APPLICATION_SERVICE:
        service = service_of(call)
        user = await call.app.logins.named({"identifier": body.identifier, "user": body.user})
        user_id = f"@{user.localpart}:{call.app.config.server.name}"
        call.app.appservices.registry.check_user(user_id, service)
        begun = await call.app.sessions.begin(user.user_nid, device)
    elif body.type == PASSWORD:
        if body.password is None:
            raise MatrixError.missing_param("password is missing")
        named = {"identifier": body.identifier, "user": body.user, "medium": body.medium}
        user = await call.app.logins.check(named, body.password)
        begun = await call.app.sessions.begin(user.user_nid, device)
    else:
        raise MatrixError("M_UNKNOWN", "type: this server does not know that way to log in", 400)
    server = call.app.config.server.name
    return LoggedIn(
        user_id=f"@{user.localpart}:{server}",
        access_token=begun.access_token,
        device_id=begun.device_id,
        home_server=server,
        refresh_token=begun.refresh_token,
        expires_in_ms=begun.expires_in_ms,
    )


class RefreshBody(Shape):
    refresh_token: str


class Refreshed(Reply):
    access_token: str
    refresh_token: str | None = None
    expires_in_ms: int | None = None


@endpoint(
    "POST /_matrix/client/v3/refresh",
    spec="client-server-api#post_matrixclientv3refresh",
    auth=NoAuth(),
)
async def refresh(call: Call, body: RefreshBody) -> Refreshed:
    """A new access token, and a new refresh token for the next time."""
    begun = await call.app.sessions.refresh(body.refresh_token)
    return Refreshed(begun.access_token, begun.refresh_token, begun.expires_in_ms)


class AuthBody(Shape):
    auth: JsonObject | None = None


class LoginToken(Shape):
    login_token: str
    expires_in_ms: int


@endpoint(
    "POST /_matrix/client/v1/login/get_token",
    spec="client-server-api#post_matrixclientv1loginget_token",
    auth=Client(),
)
async def get_login_token(call: Call, body: AuthBody = AuthBody()) -> LoginToken:
    """A token with which another client can log in, after the password was given."""
    if not call.app.config.sessions.login_tokens:
        raise MatrixError("M_UNRECOGNIZED", "This server makes no login tokens", 404)
    token = await call.app.login_tokens.create(call.session.user_nid, body.auth)
    return LoginToken(token, LIFETIME_MS)


@endpoint(
    "POST /_matrix/client/v3/logout",
    spec="client-server-api#post_matrixclientv3logout",
    auth=Client(guests=True, locked=True),
)
async def logout(call: Call) -> Empty:
    """End this session and remove its device."""
    await call.app.sessions.end(call.session)
    return Empty()


@endpoint(
    "POST /_matrix/client/v3/logout/all",
    spec="client-server-api#post_matrixclientv3logoutall",
    auth=Client(guests=True, locked=True),
)
async def logout_all(call: Call) -> Empty:
    """End all sessions of the user and remove their devices."""
    await call.app.sessions.end_devices(call.session.user_nid, None)
    return Empty()
