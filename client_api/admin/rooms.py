"""Rooms, for administrators and the command line.

Not part of the specification, nor of what tools of the field use: paths and fields are ours.
"""

from homeserver.http.endpoint import Admin, Call, endpoint
from homeserver.http.shape import RoomID, Shape
from homeserver.matrix.canonical import JsonObject


class CheckQuery(Shape):
    ask_servers: bool = True


class RepairBody(Shape):
    apply: bool = False


@endpoint("GET /_homeserver/admin/v1/rooms/{room_id}/check", spec="", auth=Admin(), limit="none")
async def check_room(call: Call, room_id: RoomID, query: CheckQuery) -> JsonObject:
    """Whether a room's state is what its events say, and what other servers have."""
    return await call.app.chapters.inspection.check(room_id, ask=query.ask_servers)


@endpoint("POST /_homeserver/admin/v1/rooms/{room_id}/repair", spec="", auth=Admin(), limit="none")
async def repair_room(call: Call, room_id: RoomID, body: RepairBody) -> JsonObject:
    """What a room's tables should say, and have them say it if wanted."""
    return await call.app.chapters.inspection.repair(room_id, apply=body.apply)
