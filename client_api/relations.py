"""Children of events, threads, and subscriptions to threads.

spec: client-server-api#relationships-api and client-server-api#querying-threads-in-a-room
"""

from typing import Annotated, Literal

import msgspec

from client_api.rooms import Limit
from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Empty, EventID, Raw, RoomID, Shape
from homeserver.rooms.relations import Stretch, Wanted


class RelationsQuery(Shape):
    dir: Literal["b", "f"] = "b"
    from_: str | None = msgspec.field(default=None, name="from")
    to: str | None = None
    limit: Limit = 20
    recurse: bool = False


class ThreadsQuery(Shape):
    include: Literal["all", "participated"] = "all"
    from_: str | None = msgspec.field(default=None, name="from")
    limit: Limit = 20


class SubscriptionsQuery(Shape):
    dir: Literal["b"]
    from_: str | None = msgspec.field(default=None, name="from")
    to: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1)] = 100


class SubscribeBody(Shape):
    automatic: EventID | None = None


class SubscriptionReply(Shape):
    automatic: bool


@endpoint(
    "GET /_matrix/client/v1/rooms/{room_id}/relations/{event_id}",
    spec="client-server-api#get_matrixclientv1roomsroomidrelationseventid",
    auth=Client(guests=True),
)
async def get_relations(
    call: Call, room_id: RoomID, event_id: EventID, query: RelationsQuery
) -> Raw:
    """The children of an event."""
    return await _children(call, room_id, Wanted(event_id, recurse=query.recurse), query)


@endpoint(
    "GET /_matrix/client/v1/rooms/{room_id}/relations/{event_id}/{rel_type}",
    spec="client-server-api#get_matrixclientv1roomsroomidrelationseventidreltype",
    auth=Client(guests=True),
)
async def get_relations_of_a_kind(
    call: Call, room_id: RoomID, event_id: EventID, rel_type: str, query: RelationsQuery
) -> Raw:
    """The children that relate to an event in one way."""
    wanted = Wanted(event_id, rel_type, recurse=query.recurse)
    return await _children(call, room_id, wanted, query)


@endpoint(
    "GET /_matrix/client/v1/rooms/{room_id}/relations/{event_id}/{rel_type}/{event_type}",
    spec="client-server-api#get_matrixclientv1roomsroomidrelationseventidreltypeeventtype",
    auth=Client(guests=True),
)
async def get_relations_of_a_type(
    call: Call,
    room_id: RoomID,
    event_id: EventID,
    rel_type: str,
    event_type: str,
    query: RelationsQuery,
) -> Raw:
    """The children of one type that relate to an event in one way."""
    wanted = Wanted(event_id, rel_type, event_type, query.recurse)
    return await _children(call, room_id, wanted, query)


@endpoint(
    "GET /_matrix/client/v1/rooms/{room_id}/threads",
    spec="client-server-api#get_matrixclientv1roomsroomidthreads",
    auth=Client(guests=True),
    limit="read_heavy",
)
async def get_threads(call: Call, room_id: RoomID, query: ThreadsQuery) -> Raw:
    """The threads of a room."""
    looking = await call.app.history.look(call.session, room_id)
    threads = await call.app.relations.threads(
        looking,
        participated=query.include == "participated",
        start=query.from_,
        limit=query.limit,
    )
    return Raw(threads)


# The proposal's path; no stable one exists yet.
_SUBSCRIPTION = (
    "/_matrix/client/unstable/io.element.msc4306/rooms/{room_id}/thread/{root_id}/subscription"
)


@endpoint(
    f"GET {_SUBSCRIPTION}", spec="client-server-api#querying-threads-in-a-room", auth=Client()
)
async def get_subscription(call: Call, room_id: RoomID, root_id: EventID) -> SubscriptionReply:
    """Whether the user has subscribed to a thread."""
    automatic = await call.app.thread_subscriptions.get(call.session, room_id, root_id)
    return SubscriptionReply(automatic)


@endpoint(
    f"PUT {_SUBSCRIPTION}", spec="client-server-api#querying-threads-in-a-room", auth=Client()
)
async def subscribe(
    call: Call, room_id: RoomID, root_id: EventID, body: SubscribeBody = SubscribeBody()
) -> Empty:
    """Subscribe to a thread."""
    await call.app.thread_subscriptions.subscribe(call.session, room_id, root_id, body.automatic)
    return Empty()


@endpoint(
    f"DELETE {_SUBSCRIPTION}", spec="client-server-api#querying-threads-in-a-room", auth=Client()
)
async def unsubscribe(call: Call, room_id: RoomID, root_id: EventID) -> Empty:
    """Unsubscribe from a thread."""
    await call.app.thread_subscriptions.unsubscribe(call.session, room_id, root_id)
    return Empty()


@endpoint(
    "GET /_matrix/client/unstable/io.element.msc4308/thread_subscriptions",
    spec="client-server-api#querying-threads-in-a-room",
    auth=Client(),
    limit="read_heavy",
)
async def get_subscriptions(call: Call, query: SubscriptionsQuery) -> Raw:
    """What the user said of threads in all rooms, backwards (MSC4308)."""
    return Raw(
        await call.app.subscription_news.page(
            call.session.user_nid, query.from_, query.to, query.limit
        )
    )


async def _children(call: Call, room_id: str, wanted: Wanted, query: RelationsQuery) -> Raw:
    looking = await call.app.history.look(call.session, room_id, hide=True)
    stretch = Stretch(query.from_, query.to, query.limit, query.dir == "b")
    return Raw(await call.app.relations.children(looking, wanted, stretch))
