"""What other servers ask of our spaces.

spec: server-server-api#spaces
"""

from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, Server, endpoint
from homeserver.http.shape import RoomID, Shape
from homeserver.matrix.canonical import JsonObject
from homeserver.rooms.acl import allowed
from homeserver.rooms.actor import Room


class HierarchyQuery(Shape):
    suggested_only: bool = False


@endpoint(
    "GET /_matrix/federation/v1/hierarchy/{room_id}",
    spec="server-server-api#get_matrixfederationv1hierarchyroomid",
    auth=Server(),
)
async def get_hierarchy(call: Call, room_id: RoomID, query: HierarchyQuery) -> JsonObject:
    """A space and the rooms right below it, as far as the asking server may know of them."""
    app = call.app

    async def may_see(room: Room) -> bool:
        if not await app.rooms.read(room, lambda head: allowed(call.origin, head)):
            return False
        return await app.chapters.summaries.may_tell(call.origin, room)

    room = await app.rooms.find(room_id)
    if room is None or not await app.chapters.summaries.present(room) or not await may_see(room):
        raise MatrixError.not_found("There is no such room, or your server may not see it")
    return await app.chapters.spaces.local(room, query.suggested_only, may_see)
