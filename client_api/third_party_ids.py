"""Addresses outside of Matrix: validated by mail, added, removed, published by identity servers.

This server knows mail addresses; it sends no text messages.
spec: client-server-api#adding-account-administrative-contact-information
"""

from typing import Annotated, Literal

import msgspec

from client_api.rooms import AccessToken
from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, Client, NoAuth, endpoint
from homeserver.http.shape import Empty, Int, Shape
from homeserver.matrix.canonical import JsonObject
from homeserver.users.validations import Purpose, check_secret

Medium = Literal["email", "msisdn"]
Text = Annotated[str, msgspec.Meta(max_length=1_024)]


class ThirdPartyIds(Shape):
    threepids: list[JsonObject]


@endpoint(
    "GET /_matrix/client/v3/account/3pid",
    spec="client-server-api#get_matrixclientv3account3pid",
    auth=Client(),
)
async def get_third_party_ids(call: Call) -> ThirdPartyIds:
    """The addresses of the user."""
    return ThirdPartyIds(await call.app.third_party_ids.of(call.session.user_nid))


class AddBody(Shape):
    sid: str
    client_secret: str
    auth: JsonObject | None = None


@endpoint(
    "POST /_matrix/client/v3/account/3pid/add",
    spec="client-server-api#post_matrixclientv3account3pidadd",
    auth=Client(),
)
async def add(call: Call, body: AddBody) -> Empty:
    """Add an address that was validated here, after the password was given."""
    credentials: JsonObject = {"sid": body.sid, "client_secret": body.client_secret}
    await call.app.third_party_ids.add(call.session, credentials, body.auth)
    return Empty()


class Credentials(Shape):
    client_secret: str
    id_server: Text
    id_access_token: AccessToken
    sid: str


class CredentialsBody(Shape):
    three_pid_creds: Credentials


@endpoint(
    "POST /_matrix/client/v3/account/3pid",
    spec="client-server-api#post_matrixclientv3account3pid",
    auth=Client(),
)
async def add_validated(call: Call, body: CredentialsBody) -> Empty:
    """The older way to publish an address on an identity server."""
    return await _bind(call, body.three_pid_creds)


@endpoint(
    "POST /_matrix/client/v3/account/3pid/bind",
    spec="client-server-api#post_matrixclientv3account3pidbind",
    auth=Client(),
)
async def bind(call: Call, body: Credentials) -> Empty:
    """Publish an address on an identity server."""
    return await _bind(call, body)


async def _bind(call: Call, body: Credentials) -> Empty:
    check_secret(body.client_secret)
    credentials: JsonObject = {"sid": body.sid, "client_secret": body.client_secret}
    await call.app.third_party_ids.bind(
        call.session, credentials, body.id_server, body.id_access_token
    )
    return Empty()


class AddressBody(Shape):
    medium: Medium
    address: Text
    id_server: Text | None = None


class Unbound(Shape):
    id_server_unbind_result: Literal["success", "no-support"]


@endpoint(
    "POST /_matrix/client/v3/account/3pid/delete",
    spec="client-server-api#post_matrixclientv3account3piddelete",
    auth=Client(),
)
async def delete(call: Call, body: AddressBody) -> Unbound:
    """Remove an address."""
    return Unbound(
        await call.app.third_party_ids.delete(
            call.session, body.medium, body.address, body.id_server
        )
    )


@endpoint(
    "POST /_matrix/client/v3/account/3pid/unbind",
    spec="client-server-api#post_matrixclientv3account3pidunbind",
    auth=Client(),
)
async def unbind(call: Call, body: AddressBody) -> Unbound:
    """Remove an address from an identity server."""
    return Unbound(
        await call.app.third_party_ids.unbind(
            call.session, body.medium, body.address, body.id_server
        )
    )


class MailBody(Shape):
    client_secret: str
    email: Text
    send_attempt: Int
    next_link: Text | None = None


class PhoneBody(Shape):
    client_secret: str
    country: str
    phone_number: str
    send_attempt: Int


class Begun(Shape):
    sid: str


@endpoint(
    "POST /_matrix/client/v3/register/email/requestToken",
    spec="client-server-api#post_matrixclientv3registeremailrequesttoken",
    auth=NoAuth(),
    limit="mail",
)
async def mail_to_register(call: Call, body: MailBody) -> Begun:
    """Validate an address for a registration."""
    call.app.registration.check_open()
    return await _mail(call, "register", body)


@endpoint(
    "POST /_matrix/client/v3/account/3pid/email/requestToken",
    spec="client-server-api#post_matrixclientv3account3pidemailrequesttoken",
    auth=NoAuth(),
    limit="mail",
)
async def mail_to_add(call: Call, body: MailBody) -> Begun:
    """Validate an address for an account."""
    return await _mail(call, "add", body)


@endpoint(
    "POST /_matrix/client/v3/account/password/email/requestToken",
    spec="client-server-api#post_matrixclientv3accountpasswordemailrequesttoken",
    auth=NoAuth(),
    limit="mail",
)
async def mail_for_password(call: Call, body: MailBody) -> Begun:
    """Validate an address for a new password."""
    return await _mail(call, "password", body)


async def _mail(call: Call, purpose: Purpose, body: MailBody) -> Begun:
    sid = await call.app.third_party_ids.request(
        purpose, body.email, body.client_secret, body.send_attempt, body.next_link
    )
    return Begun(sid)


@endpoint(
    "POST /_matrix/client/v3/register/msisdn/requestToken",
    spec="client-server-api#post_matrixclientv3registermsisdnrequesttoken",
    auth=NoAuth(),
)
async def phone_to_register(call: Call, body: PhoneBody) -> Begun:
    """Validate a phone number for a registration."""
    raise _no_phones()


@endpoint(
    "POST /_matrix/client/v3/account/3pid/msisdn/requestToken",
    spec="client-server-api#post_matrixclientv3account3pidmsisdnrequesttoken",
    auth=NoAuth(),
)
async def phone_to_add(call: Call, body: PhoneBody) -> Begun:
    """Validate a phone number for an account."""
    raise _no_phones()


@endpoint(
    "POST /_matrix/client/v3/account/password/msisdn/requestToken",
    spec="client-server-api#post_matrixclientv3accountpasswordmsisdnrequesttoken",
    auth=NoAuth(),
)
async def phone_for_password(call: Call, body: PhoneBody) -> Begun:
    """Validate a phone number for a new password."""
    raise _no_phones()


def _no_phones() -> MatrixError:
    return MatrixError("M_THREEPID_MEDIUM_NOT_SUPPORTED", "This server sends no text messages", 400)
