"""What rooms are, seen from outside: summaries, spaces, rooms in common, events by their time.

spec: client-server-api#spaces, client-server-api#mutual-rooms
"""

from typing import Annotated, Literal

import msgspec

from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, Client, OptionalClient, endpoint
from homeserver.http.shape import Int, Reply, RoomID, RoomIDOrAlias, Shape
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.ids import is_user_id

Depth = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
PageSize = Annotated[int, msgspec.Meta(ge=1, le=2**31)]


class SummaryQuery(Shape):
    via: list[str] = []


class HierarchyQuery(Shape):
    from_: str | None = msgspec.field(default=None, name="from")
    limit: PageSize | None = None
    max_depth: Depth | None = None
    suggested_only: bool = False


class TimeQuery(Shape):
    ts: Int
    dir: Literal["f", "b"]


class MomentReply(Shape):
    event_id: str
    origin_server_ts: int


class MutualQuery(Shape):
    user_id: str
    from_: str | None = msgspec.field(default=None, name="from")


class MutualReply(Reply):
    joined: list[str]
    count: int
    next_batch: str | None = None


class UpgradeBody(Shape):
    new_version: str
    additional_creators: list[str] = []


class UpgradeReply(Shape):
    replacement_room: str


@endpoint(
    "GET /_matrix/client/v1/room_summary/{room_id_or_alias}",
    spec="client-server-api#get_matrixclientv1room_summaryroomidoralias",
    auth=OptionalClient(),
    also=[
        "/_matrix/client/unstable/im.nheko.summary/summary/{room_id_or_alias}",
        "/_matrix/client/unstable/im.nheko.summary/rooms/{room_id_or_alias}/summary",
    ],
)
async def get_summary(
    call: Call, room_id_or_alias: RoomIDOrAlias, query: SummaryQuery
) -> JsonObject:
    """What a room is, for who may join it or read it."""
    room_id: str = room_id_or_alias
    via = query.via
    if room_id.startswith("#"):
        room_id, servers = await call.app.directory.locate(room_id)
        via = [*via, *servers]
    return await call.app.chapters.summaries.of(call.maybe_session, room_id, via)


@endpoint(
    "GET /_matrix/client/v1/rooms/{room_id}/hierarchy",
    spec="client-server-api#get_matrixclientv1roomsroomidhierarchy",
    auth=Client(guests=True),
    limit="read_heavy",
)
async def get_hierarchy(call: Call, room_id: RoomID, query: HierarchyQuery) -> JsonObject:
    """The tree of rooms below a space."""
    return await call.app.chapters.spaces.page(
        call.session,
        room_id,
        suggested_only=query.suggested_only,
        max_depth=query.max_depth,
        limit=query.limit,
        start=query.from_,
    )


@endpoint(
    "GET /_matrix/client/v1/rooms/{room_id}/timestamp_to_event",
    spec="client-server-api#get_matrixclientv1roomsroomidtimestamp_to_event",
    auth=Client(guests=True),
)
async def get_event_by_time(call: Call, room_id: RoomID, query: TimeQuery) -> MomentReply:
    """The event nearest to a time."""
    looking = await call.app.history.look(call.session, room_id)
    view = await call.app.history.near(looking, query.ts, backwards=query.dir == "b")
    return MomentReply(view.event_id, view.ts)


@endpoint(
    "GET /_matrix/client/v1/mutual_rooms",
    spec="client-server-api#get_matrixclientv1mutual_rooms",
    auth=Client(),
    also=["/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"],
)
async def get_mutual_rooms(call: Call, query: MutualQuery) -> MutualReply:
    """The rooms in which both the user and another one are joined."""
    if not is_user_id(query.user_id) or query.user_id == call.session.user_id:
        raise MatrixError.invalid_param("user_id: not another user's ID")
    joined, count, rest = await call.app.own_rooms.shared(
        call.session.user_nid, query.user_id, query.from_
    )
    return MutualReply(joined, count, rest)


@endpoint(
    "POST /_matrix/client/v3/rooms/{room_id}/upgrade",
    spec="client-server-api#post_matrixclientv3roomsroomidupgrade",
    auth=Client(suspended=False),
    limit="create_room",
)
async def upgrade_room(call: Call, room_id: RoomID, body: UpgradeBody) -> UpgradeReply:
    """Put a new room in a room's place."""
    room = await call.app.rooms.known(room_id)
    new_id = await call.app.chapters.upgrades.upgrade(
        call.session.user_id, room, body.new_version, body.additional_creators
    )
    return UpgradeReply(new_id)
