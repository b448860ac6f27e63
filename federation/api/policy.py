"""What a policy server is asked: this server is none.

spec: server-server-api#post_matrixpolicyv1sign
"""

from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, Server, endpoint
from homeserver.http.shape import Empty
from homeserver.matrix.canonical import JsonObject


@endpoint(
    "POST /_matrix/policy/v1/sign",
    spec="server-server-api#post_matrixpolicyv1sign",
    auth=Server(),
)
async def sign(call: Call, body: JsonObject) -> Empty:
    """Refuse to sign an event: who asks must ask elsewhere."""
    raise MatrixError("M_UNRECOGNIZED", "This server is not a policy server", 404)
