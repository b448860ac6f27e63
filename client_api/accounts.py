"""Registration and the account that is logged in.

spec: client-server-api#account-registration
"""

from dataclasses import replace
from typing import Literal

from client_api.appservices import service_of
from homeserver.http.endpoint import Call, Client, NoAuth, OptionalClient, endpoint
from homeserver.http.shape import Empty, Reply, Shape
from homeserver.matrix.canonical import JsonObject
from homeserver.users import accounts
from homeserver.users.registration import RegistrationRequest
from homeserver.users.sessions import DeviceRequest

APPLICATION_SERVICE = "m.login.application_service"


class RegisterQuery(Shape):
    kind: Literal["user", "guest"] = "user"


class RegisterBody(Shape):
    auth: JsonObject | None = None
    type: str | None = None
    username: str | None = None
    password: str | None = None
    device_id: str | None = None
    initial_device_display_name: str | None = None
    inhibit_login: bool | None = None
    refresh_token: bool | None = None
    guest_access_token: str | None = None


class Registered(Reply):
    user_id: str
    access_token: str | None = None
    device_id: str | None = None
    refresh_token: str | None = None
    expires_in_ms: int | None = None


@endpoint(
    "POST /_matrix/client/v3/register",
    spec="client-server-api#post_matrixclientv3register",
    auth=NoAuth(),
    limit="registration",
)
async def register(call: Call, query: RegisterQuery, body: RegisterBody) -> Registered:
    """Make an account, step by step."""
    if body.type == APPLICATION_SERVICE:
        made = await _register_service_user(call, body)
    elif query.kind == "guest":
        made = await call.app.registration.register_guest(body.initial_device_display_name)
    else:
        request = _request(body)
        if body.guest_access_token is not None:
            token = body.guest_access_token
            guest = await call.app.sessions.authenticate(token, call.request)
            request = replace(request, guest=guest)
        made = await call.app.registration.register(request)
    return _registered(made)


async def _register_service_user(call: Call, body: RegisterBody) -> accounts.Registered:
    service = service_of(call)
    username = (body.username or "").lower()
    call.app.appservices.registry.check_user(f"@{username}:{call.app.config.server.name}", service)
    request = _request(body)
    device = None if request.inhibit_login else request.device
    return await call.app.registration.register_service_user(username, device)


def _request(body: RegisterBody) -> RegistrationRequest:
    name, refreshes = body.initial_device_display_name, bool(body.refresh_token)
    return RegistrationRequest(
        username=body.username,
        password=body.password,
        auth=body.auth,
        device=DeviceRequest(body.device_id, name, refreshes),
        inhibit_login=bool(body.inhibit_login),
    )


def _registered(made: accounts.Registered) -> Registered:
    begun = made.session
    if begun is None:
        return Registered(made.user_id)
    return Registered(
        made.user_id, begun.access_token, begun.device_id, begun.refresh_token, begun.expires_in_ms
    )


class UsernameQuery(Shape):
    username: str


class Available(Shape):
    available: bool


@endpoint(
    "GET /_matrix/client/v3/register/available",
    spec="client-server-api#get_matrixclientv3registeravailable",
    auth=NoAuth(),
)
async def available(call: Call, query: UsernameQuery) -> Available:
    """Whether a name can be registered."""
    call.app.registration.check_open()
    await call.app.accounts.check_free(query.username)
    return Available(True)


class TokenQuery(Shape):
    token: str


class Validity(Shape):
    valid: bool


@endpoint(
    "GET /_matrix/client/v1/register/m.login.registration_token/validity",
    spec="client-server-api#get_matrixclientv1registermloginregistration_tokenvalidity",
    auth=NoAuth(),
    limit="registration",
)
async def token_validity(call: Call, query: TokenQuery) -> Validity:
    """Whether a registration token is good."""
    call.app.registration.check_open()
    return Validity(await call.app.registration_tokens.is_valid(query.token))


class WhoAmI(Reply):
    user_id: str
    device_id: str | None = None
    is_guest: bool = False


@endpoint(
    "GET /_matrix/client/v3/account/whoami",
    spec="client-server-api#get_matrixclientv3accountwhoami",
    auth=Client(guests=True),
)
async def whoami(call: Call) -> WhoAmI:
    """Whose access token this is."""
    session = call.session
    return WhoAmI(session.user_id, session.device_id, session.is_guest)


class PasswordBody(Shape):
    new_password: str
    logout_devices: bool = True
    auth: JsonObject | None = None


@endpoint(
    "POST /_matrix/client/v3/account/password",
    spec="client-server-api#post_matrixclientv3accountpassword",
    auth=OptionalClient(),
    limit="login_address",
)
async def change_password(call: Call, body: PasswordBody) -> Empty:
    """Change one's password, after the present one was given or a mailed link followed."""
    await call.app.credentials.change_password(
        call.maybe_session, body.new_password, body.auth, log_out=body.logout_devices
    )
    return Empty()


class DeactivateBody(Shape):
    auth: JsonObject | None = None
    id_server: str | None = None
    erase: bool = False


class Unbound(Shape):
    id_server_unbind_result: Literal["success", "no-support"]


@endpoint(
    "POST /_matrix/client/v3/account/deactivate",
    spec="client-server-api#post_matrixclientv3accountdeactivate",
    auth=Client(),
)
async def deactivate(call: Call, body: DeactivateBody = DeactivateBody()) -> Unbound:
    """Close one's account for ever, after the password was given."""
    await call.app.deactivation.request(call.session, body.auth, erase=body.erase)
    return Unbound("success")
