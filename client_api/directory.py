"""Room aliases and directory entries.

spec: client-server-api#room-aliases
"""

from typing import Literal

from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, Client, NoAuth, endpoint
from homeserver.http.shape import Empty, RoomAlias, RoomID, Shape
from homeserver.rooms.actor import Room


class AliasReply(Shape):
    room_id: str
    servers: list[str]


class PutAliasBody(Shape):
    room_id: RoomID


class AliasesReply(Shape):
    aliases: list[str]


class VisibilityBody(Shape):
    visibility: Literal["public", "private"] = "public"


@endpoint(
    "GET /_matrix/client/v3/directory/room/{room_alias}",
    spec="client-server-api#get_matrixclientv3directoryroomroomalias",
    auth=NoAuth(),
)
async def get_alias(call: Call, room_alias: RoomAlias) -> AliasReply:
    """The room that an alias stands for."""
    return AliasReply(*await call.app.directory.locate(room_alias))


@endpoint(
    "PUT /_matrix/client/v3/directory/room/{room_alias}",
    spec="client-server-api#put_matrixclientv3directoryroomroomalias",
    auth=Client(suspended=False),
)
async def put_alias(call: Call, room_alias: RoomAlias, body: PutAliasBody) -> Empty:
    """Let an alias stand for a room."""
    room = await call.app.rooms.known(body.room_id)
    await call.app.directory.put(call.session, room_alias, room)
    return Empty()


@endpoint(
    "DELETE /_matrix/client/v3/directory/room/{room_alias}",
    spec="client-server-api#delete_matrixclientv3directoryroomroomalias",
    auth=Client(),
)
async def delete_alias(call: Call, room_alias: RoomAlias) -> Empty:
    """Remove an alias."""
    await call.app.directory.delete(call.session, room_alias)
    return Empty()


@endpoint(
    "GET /_matrix/client/v3/rooms/{room_id}/aliases",
    spec="client-server-api#get_matrixclientv3roomsroomidaliases",
    auth=Client(),
)
async def get_room_aliases(call: Call, room_id: RoomID) -> AliasesReply:
    """The local aliases of a room that the user is in, or that anybody may read."""
    looking = await call.app.history.look(call.session, room_id)
    if not (looking.reader.is_member or looking.reader.open_now):
        raise MatrixError.forbidden("You are not in this room")
    return AliasesReply(await call.app.directory.of_room(looking.room))


@endpoint(
    "GET /_matrix/client/v3/directory/list/room/{room_id}",
    spec="client-server-api#get_matrixclientv3directorylistroomroomid",
    auth=NoAuth(),
)
async def get_visibility(call: Call, room_id: RoomID) -> VisibilityBody:
    """Whether the directory lists a room."""
    published = await call.app.directory.is_published(await _found(call, room_id))
    return VisibilityBody("public" if published else "private")


@endpoint(
    "PUT /_matrix/client/v3/directory/list/room/{room_id}",
    spec="client-server-api#put_matrixclientv3directorylistroomroomid",
    auth=Client(suspended=False),
)
async def put_visibility(
    call: Call, room_id: RoomID, body: VisibilityBody = VisibilityBody()
) -> Empty:
    """List a room in the directory, or no longer."""
    room = await _found(call, room_id)
    await call.app.directory.publish(call.session, room, body.visibility == "public")
    return Empty()


async def _found(call: Call, room_id: str) -> Room:
    room = await call.app.rooms.find(room_id)
    if room is None:
        raise MatrixError.not_found("This server doesn't know that room")
    return room
