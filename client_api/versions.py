"""The versions of the specification.

spec: client-server-api#api-versions
"""

from homeserver.http.endpoint import Call, NoAuth, endpoint
from homeserver.http.shape import Shape

VERSIONS = [
    "r0.0.1",
    "r0.1.0",
    "r0.2.0",
    "r0.3.0",
    "r0.4.0",
    "r0.5.0",
    "r0.6.0",
    "r0.6.1",
    *(f"v1.{minor}" for minor in range(1, 20)),
]

# What clients look for by these names; some are stable by now.
UNSTABLE = [
    "uk.half-shot.msc2666.query_mutual_rooms",
    "uk.half-shot.msc2666.query_mutual_rooms.stable",
    "org.matrix.msc3391",
    "org.matrix.msc3440.stable",
    "org.matrix.msc3827.stable",
    "org.matrix.msc3981",
    "org.matrix.msc4140",
    "org.matrix.msc4143",
    "org.matrix.msc4155",
    "org.matrix.msc4222",
    "org.matrix.msc4293",
    "org.matrix.msc4306",
    "org.matrix.msc4308",
    "org.matrix.msc4354",
    "org.matrix.msc4380.stable",
    "org.matrix.simplified_msc3575",
]


class Versions(Shape):
    versions: list[str]
    unstable_features: dict[str, bool]


@endpoint(
    "GET /_matrix/client/versions",
    spec="client-server-api#get_matrixclientversions",
    auth=NoAuth(),
)
async def get_versions(call: Call) -> Versions:
    """The versions that this server speaks."""
    features = dict.fromkeys(UNSTABLE, True)
    features["org.matrix.msc4174"] = call.app.push.vapid is not None
    return Versions(VERSIONS, features)
