"""Application services, for administrators and the command line.

Not part of the specification, nor of what tools of the field use: paths and fields are ours.
"""

from typing import Annotated

import msgspec

from homeserver.http.endpoint import Admin, Call, endpoint
from homeserver.http.shape import Empty, Shape
from homeserver.matrix.canonical import JsonObject

Positions = Annotated[int, msgspec.Meta(ge=1, le=2**53)]


class Services(Shape):
    appservices: list[JsonObject]


@endpoint("GET /_homeserver/admin/v1/appservices", spec="", auth=Admin(), limit="none")
async def list_services(call: Call) -> Services:
    """Every application service and how it is doing."""
    services = call.app.appservices
    return Services([services.status(one.id) for one in services.registry.all()])


class AddBody(Shape):
    registration: str


@endpoint("POST /_homeserver/admin/v1/appservices", spec="", auth=Admin(), limit="none")
async def add_service(call: Call, body: AddBody) -> JsonObject:
    """Add an application service by the text of its registration file, or change it."""
    return await call.app.appservices.add(body.registration)


@endpoint(
    "DELETE /_homeserver/admin/v1/appservices/{service_id}", spec="", auth=Admin(), limit="none"
)
async def remove_service(call: Call, service_id: str) -> Empty:
    """Forget an application service that was added."""
    await call.app.appservices.remove(service_id)
    return Empty()


class Pong(Shape):
    duration_ms: int


@endpoint(
    "POST /_homeserver/admin/v1/appservices/{service_id}/ping", spec="", auth=Admin(), limit="none"
)
async def ping_service(call: Call, service_id: str) -> Pong:
    """Ask an application service whether it answers, and end its pause."""
    return Pong(await call.app.appservices.ping(service_id))


class ReplayBody(Shape):
    positions: Positions


@endpoint(
    "POST /_homeserver/admin/v1/appservices/{service_id}/replay",
    spec="",
    auth=Admin(),
    limit="none",
)
async def replay_service(call: Call, service_id: str, body: ReplayBody) -> Empty:
    """Send once more what concerns the service in the last so many positions of the stream."""
    await call.app.appservices.replay(service_id, body.positions)
    return Empty()
