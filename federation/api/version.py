"""Which software this is.

spec: server-server-api#server-implementation
"""

from importlib.metadata import version

from homeserver.http.endpoint import Call, NoAuth, endpoint
from homeserver.http.shape import Shape

NAME = "homeserver"


class Software(Shape):
    name: str
    version: str


class Version(Shape):
    server: Software


@endpoint(
    "GET /_matrix/federation/v1/version",
    spec="server-server-api#get_matrixfederationv1version",
    auth=NoAuth(),
)
async def get_version(call: Call) -> Version:
    """The name and version of this software."""
    return Version(Software(NAME, version(NAME)))
