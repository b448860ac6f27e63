"""OpenID tokens, by which a third party learns who a user is.

spec: client-server-api#openid
"""

from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Shape, UserID
from homeserver.users.openid import LIFETIME_SECONDS


class TokenReply(Shape):
    access_token: str
    token_type: str
    matrix_server_name: str
    expires_in: int


@endpoint(
    "POST /_matrix/client/v3/user/{user_id}/openid/request_token",
    spec="client-server-api#post_matrixclientv3useruseridopenidrequest_token",
    auth=Client(guests=True),
)
async def request_token(call: Call, user_id: UserID) -> TokenReply:
    """A token that says who the user is."""
    if user_id != call.session.user_id:
        raise MatrixError.forbidden("You can only get tokens of your own")
    token = call.app.openid.token(user_id)
    return TokenReply(token, "Bearer", call.app.config.server.name, LIFETIME_SECONDS)
