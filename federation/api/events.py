"""Events, state and history, for servers in the room.

spec: server-server-api#retrieving-events,
spec: server-server-api#backfilling-and-retrieving-missing-events
"""

from typing import Literal

from federation.serving import Serving
from homeserver.http.endpoint import Call, Endpoint, Server, endpoint, endpoint_of
from homeserver.http.shape import EventID, Int, Natural, Raw, RoomID, Shape, Streamed


class AtQuery(Shape):
    event_id: str


class BackfillQuery(Shape):
    v: list[str]
    limit: Natural


class TimeQuery(Shape):
    ts: Int
    dir: Literal["f", "b"]


class MomentReply(Shape):
    event_id: str
    origin_server_ts: int


class MissingBody(Shape):
    earliest_events: list[str]
    latest_events: list[str]
    limit: Natural = 10
    min_depth: int = 0


def event_endpoints(serving: Serving) -> list[Endpoint]:
    """The endpoints on events."""

    @endpoint(
        "GET /_matrix/federation/v1/event/{event_id}",
        spec="server-server-api#get_matrixfederationv1eventeventid",
        auth=Server(),
    )
    async def get_event(call: Call, event_id: EventID) -> Raw:
        """One event."""
        return Raw(await serving.event(call.origin, event_id))

    @endpoint(
        "GET /_matrix/federation/v1/state/{room_id}",
        spec="server-server-api#get_matrixfederationv1stateroomid",
        auth=Server(),
        limit="server_read_heavy",
    )
    async def get_state(call: Call, room_id: RoomID, query: AtQuery) -> Streamed:
        """The state before an event, with its auth chain."""
        return Streamed(await serving.state(call.origin, room_id, query.event_id))

    @endpoint(
        "GET /_matrix/federation/v1/state_ids/{room_id}",
        spec="server-server-api#get_matrixfederationv1state_idsroomid",
        auth=Server(),
        limit="server_read_heavy",
    )
    async def get_state_ids(call: Call, room_id: RoomID, query: AtQuery) -> Raw:
        """The ids of the state before an event, and of its auth chain."""
        return Raw(await serving.state_ids(call.origin, room_id, query.event_id))

    @endpoint(
        "GET /_matrix/federation/v1/event_auth/{room_id}/{event_id}",
        spec="server-server-api#get_matrixfederationv1event_authroomideventid",
        auth=Server(),
        limit="server_read_heavy",
    )
    async def get_event_auth(call: Call, room_id: RoomID, event_id: EventID) -> Streamed:
        """The auth chain of an event."""
        return Streamed(await serving.event_auth(call.origin, room_id, event_id))

    @endpoint(
        "GET /_matrix/federation/v1/backfill/{room_id}",
        spec="server-server-api#get_matrixfederationv1backfillroomid",
        auth=Server(),
        limit="server_read_heavy",
    )
    async def backfill(call: Call, room_id: RoomID, query: BackfillQuery) -> Raw:
        """What happened before some events."""
        return Raw(await serving.backfill(call.origin, room_id, query.v, query.limit))

    @endpoint(
        "POST /_matrix/federation/v1/get_missing_events/{room_id}",
        spec="server-server-api#post_matrixfederationv1get_missing_eventsroomid",
        auth=Server(),
        limit="server_read_heavy",
    )
    async def get_missing_events(call: Call, room_id: RoomID, body: MissingBody) -> Raw:
        """What happened between some events."""
        return Raw(
            await serving.missing(
                call.origin,
                room_id,
                body.earliest_events,
                body.latest_events,
                body.limit,
                body.min_depth,
            )
        )

    @endpoint(
        "GET /_matrix/federation/v1/timestamp_to_event/{room_id}",
        spec="server-server-api#get_matrixfederationv1timestamp_to_eventroomid",
        auth=Server(),
        limit="server_read_heavy",
    )
    async def get_event_by_time(call: Call, room_id: RoomID, query: TimeQuery) -> MomentReply:
        """The event nearest to a time."""
        found = await serving.near(call.origin, room_id, query.ts, backwards=query.dir == "b")
        return MomentReply(*found)

    return [
        endpoint_of(one)
        for one in (
            get_event,
            get_state,
            get_state_ids,
            get_event_auth,
            backfill,
            get_missing_events,
            get_event_by_time,
        )
    ]
