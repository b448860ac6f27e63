"""What old clients use: the event stream and the initial syncs that /sync took the place of.

spec: client-server-api#get_matrixclientv3events, client-server-api#get_matrixclientv3initialsync
"""

import msgspec

from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import EventID, Natural, Raw, RoomID, Shape
from homeserver.matrix.canonical import JsonObject


class EventsQuery(Shape):
    from_: str | None = msgspec.field(default=None, name="from")
    timeout: Natural = 0
    room_id: RoomID | None = None


class RoomInitialSyncQuery(Shape):
    limit: Natural = 10


class InitialSyncQuery(RoomInitialSyncQuery):
    archived: bool = False


@endpoint(
    "GET /_matrix/client/v3/events",
    spec="client-server-api#get_matrixclientv3events",
    auth=Client(guests=True),
)
async def get_events(call: Call, query: EventsQuery) -> Raw:
    """What has happened since a token, or in one room, waiting for it where nothing has."""
    stream, start = call.app.event_stream, query.from_ or None
    timeout = min(query.timeout, call.app.config.sync.max_timeout_ms) / 1000
    if query.room_id is not None:
        answer = await stream.peek(call.session, query.room_id, start, timeout)
    else:
        answer = await stream.events(call.session, start, timeout)
    call.app.sessions.check(call.session)
    return Raw(answer)


@endpoint(
    "GET /_matrix/client/v3/events/{event_id}",
    spec="client-server-api#get_matrixclientv3eventseventid",
    auth=Client(),
)
async def get_event(call: Call, event_id: EventID) -> Raw:
    """One event, by its id alone."""
    return Raw(await call.app.history.find(call.session, event_id))


@endpoint(
    "GET /_matrix/client/v3/initialSync",
    spec="client-server-api#get_matrixclientv3initialsync",
    auth=Client(),
    limit="initial_sync",
)
async def initial_sync(call: Call, query: InitialSyncQuery) -> JsonObject:
    """All of the user's rooms, each with its last messages and its state."""
    return await call.app.initial_sync.everything(
        call.session, query.limit, archived=query.archived
    )


@endpoint(
    "GET /_matrix/client/v3/rooms/{room_id}/initialSync",
    spec="client-server-api#get_matrixclientv3roomsroomidinitialsync",
    auth=Client(guests=True),
    limit="read_heavy",
)
async def room_initial_sync(call: Call, room_id: RoomID, query: RoomInitialSyncQuery) -> Raw:
    """One room with its last messages and its state."""
    return Raw(await call.app.initial_sync.of_room(call.session, room_id, query.limit))
