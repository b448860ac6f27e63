"""Spaces, for other servers.

spec: server-server-api#get_matrixfederationv1hierarchyroomid
"""

from federation.resident import Resident
from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, Endpoint, Server, endpoint, endpoint_of
from homeserver.http.shape import RoomID, Shape
from homeserver.matrix.canonical import JsonObject
from homeserver.rooms.actor import Room


class HierarchyQuery(Shape):
    suggested_only: bool = False


def hierarchy_endpoints(resident: Resident) -> list[Endpoint]:
    """The endpoint on spaces."""

    @endpoint(
        "GET /_matrix/federation/v1/hierarchy/{room_id}",
        spec="server-server-api#get_matrixfederationv1hierarchyroomid",
        auth=Server(),
        limit="server_read_heavy",
    )
    async def get_hierarchy(call: Call, room_id: RoomID, query: HierarchyQuery) -> JsonObject:
        """A space and the rooms right below it, as far as the server may know of them."""
        summaries = call.app.chapters.summaries
        room = await resident.room(call.origin, room_id)
        if not await summaries.may_tell(call.origin, room):
            raise MatrixError.not_found("This server is not in that room")

        async def may_see(child: Room) -> bool:
            return await summaries.may_tell(call.origin, child)

        return await call.app.chapters.spaces.local(room, query.suggested_only, may_see)

    return [endpoint_of(get_hierarchy)]
