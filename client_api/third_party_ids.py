"""Addresses outside of Matrix, of which this server keeps none.

It sends no mail and no text messages and asks no identity server, so it says of each operation what
is true: there is nothing to list, nothing to remove, and nothing can be added.
spec: client-server-api#adding-account-administrative-contact-information
"""

from typing import Literal

from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, Client, NoAuth, endpoint
from homeserver.http.shape import Empty, Int, Shape
from homeserver.matrix.canonical import JsonObject

Medium = Literal["email", "msisdn"]


class ThirdPartyIds(Shape):
    threepids: list[JsonObject]


@endpoint(
    "GET /_matrix/client/v3/account/3pid",
    spec="client-server-api#get_matrixclientv3account3pid",
    auth=Client(),
)
async def get_third_party_ids(call: Call) -> ThirdPartyIds:
    """The addresses of the user."""
    return ThirdPartyIds([])


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
    """Add an address that was validated here."""
    raise _no_changes()


class Credentials(Shape):
    client_secret: str
    id_server: str
    id_access_token: str
    sid: str


class CredentialsBody(Shape):
    three_pid_creds: Credentials


@endpoint(
    "POST /_matrix/client/v3/account/3pid",
    spec="client-server-api#post_matrixclientv3account3pid",
    auth=Client(),
)
async def add_validated(call: Call, body: CredentialsBody) -> Empty:
    """Add an address that an identity server has validated."""
    raise _no_changes()


@endpoint(
    "POST /_matrix/client/v3/account/3pid/bind",
    spec="client-server-api#post_matrixclientv3account3pidbind",
    auth=Client(),
)
async def bind(call: Call, body: Credentials) -> Empty:
    """Publish an address on an identity server."""
    raise _no_changes()


class AddressBody(Shape):
    medium: Medium
    address: str
    id_server: str | None = None


class Unbound(Shape):
    id_server_unbind_result: Literal["success", "no-support"]


@endpoint(
    "POST /_matrix/client/v3/account/3pid/delete",
    spec="client-server-api#post_matrixclientv3account3piddelete",
    auth=Client(),
)
async def delete(call: Call, body: AddressBody) -> Unbound:
    """Remove an address; it is not there."""
    return Unbound("no-support")


@endpoint(
    "POST /_matrix/client/v3/account/3pid/unbind",
    spec="client-server-api#post_matrixclientv3account3pidunbind",
    auth=Client(),
)
async def unbind(call: Call, body: AddressBody) -> Unbound:
    """Remove an address from an identity server, which this server can't."""
    return Unbound("no-support")


class MailBody(Shape):
    client_secret: str
    email: str
    send_attempt: Int


class PhoneBody(Shape):
    client_secret: str
    country: str
    phone_number: str
    send_attempt: Int


@endpoint(
    "POST /_matrix/client/v3/register/email/requestToken",
    spec="client-server-api#post_matrixclientv3registeremailrequesttoken",
    auth=NoAuth(),
)
async def mail_to_register(call: Call, body: MailBody) -> Empty:
    """Validate an address for a registration."""
    raise _denied()


@endpoint(
    "POST /_matrix/client/v3/register/msisdn/requestToken",
    spec="client-server-api#post_matrixclientv3registermsisdnrequesttoken",
    auth=NoAuth(),
)
async def phone_to_register(call: Call, body: PhoneBody) -> Empty:
    """Validate a phone number for a registration."""
    raise _denied()


@endpoint(
    "POST /_matrix/client/v3/account/3pid/email/requestToken",
    spec="client-server-api#post_matrixclientv3account3pidemailrequesttoken",
    auth=NoAuth(),
)
async def mail_to_add(call: Call, body: MailBody) -> Empty:
    """Validate an address for an account."""
    raise _not_supported()


@endpoint(
    "POST /_matrix/client/v3/account/3pid/msisdn/requestToken",
    spec="client-server-api#post_matrixclientv3account3pidmsisdnrequesttoken",
    auth=NoAuth(),
)
async def phone_to_add(call: Call, body: PhoneBody) -> Empty:
    """Validate a phone number for an account."""
    raise _not_supported()


@endpoint(
    "POST /_matrix/client/v3/account/password/email/requestToken",
    spec="client-server-api#post_matrixclientv3accountpasswordemailrequesttoken",
    auth=NoAuth(),
)
async def mail_for_password(call: Call, body: MailBody) -> Empty:
    """Validate an address for a new password."""
    raise _not_found()


@endpoint(
    "POST /_matrix/client/v3/account/password/msisdn/requestToken",
    spec="client-server-api#post_matrixclientv3accountpasswordmsisdnrequesttoken",
    auth=NoAuth(),
)
async def phone_for_password(call: Call, body: PhoneBody) -> Empty:
    """Validate a phone number for a new password."""
    raise _not_found()


def _no_changes() -> MatrixError:
    return MatrixError.forbidden("This server keeps no addresses")


def _denied() -> MatrixError:
    return MatrixError("M_THREEPID_DENIED", "This server keeps no addresses", 403)


def _not_supported() -> MatrixError:
    return MatrixError("M_THREEPID_MEDIUM_NOT_SUPPORTED", "This server keeps no addresses", 400)


def _not_found() -> MatrixError:
    return MatrixError("M_THREEPID_NOT_FOUND", "No account here has this address", 400)
