"""Rooms: creating, and the state and events that clients read and write.

spec: client-server-api#events, client-server-api#creation
"""

from typing import Annotated, Literal

import msgspec

from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import EventID, Int, Raw, RoomID, Shape, UserID
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Malformed
from homeserver.matrix.filters import EventFilter
from homeserver.rooms.actor import Room
from homeserver.rooms.address_invites import Address, checked
from homeserver.rooms.append import Txn
from homeserver.rooms.create import InitialState, NewRoom
from homeserver.rooms.history import content_of

Limit = Annotated[int, msgspec.Meta(ge=0, le=2**31)]


AddressText = Annotated[str, msgspec.Meta(max_length=1_024)]
AccessToken = Annotated[str, msgspec.Meta(max_length=1_024, pattern=r"^[!-~]+\Z")]


class InitialStateBody(Shape):
    type: str
    content: JsonObject
    state_key: str = ""


class AddressBody(Shape):
    medium: str
    address: AddressText
    id_server: AddressText
    id_access_token: AccessToken

    def invited(self) -> Address:
        """Who is invited."""
        return Address(self.medium, self.address, self.id_server, self.id_access_token)


class CreateRoomBody(Shape):
    visibility: Literal["public", "private"] = "private"
    room_alias_name: str | None = None
    name: str | None = None
    topic: str | None = None
    invite: list[UserID] = []
    invite_3pid: list[AddressBody] = []
    room_version: str | None = None
    creation_content: JsonObject = {}
    initial_state: list[InitialStateBody] = []
    preset: Literal["private_chat", "public_chat", "trusted_private_chat"] | None = None
    is_direct: bool = False
    power_level_content_override: JsonObject | None = None


class RoomIDReply(Shape):
    room_id: str


class EventIDReply(Shape):
    event_id: str


class DelayQuery(Shape):
    delay: Int | None = msgspec.field(default=None, name="org.matrix.msc4140.delay")


class SendQuery(DelayQuery):
    sticky_ms: Int | None = msgspec.field(
        default=None, name="org.matrix.msc4354.sticky_duration_ms"
    )


class DelayReply(Shape):
    delay_id: str


class RedactBody(Shape):
    reason: str | None = None


class StateQuery(Shape):
    format: Literal["content", "event"] = "content"


class ContextQuery(Shape):
    limit: Limit = 10
    filter: str | None = None


class MessagesQuery(Shape):
    dir: Literal["b", "f"]
    from_: str | None = msgspec.field(default=None, name="from")
    to: str | None = None
    limit: Limit = 10
    filter: str | None = None


class MembersQuery(Shape):
    at: str | None = None
    membership: Literal["join", "invite", "knock", "leave", "ban"] | None = None
    not_membership: Literal["join", "invite", "knock", "leave", "ban"] | None = None


class JoinedRoomsReply(Shape):
    joined_rooms: list[str]


@endpoint(
    "POST /_matrix/client/v3/createRoom",
    spec="client-server-api#post_matrixclientv3createroom",
    auth=Client(suspended=False),
    limit="create_room",
)
async def create_room(call: Call, body: CreateRoomBody) -> RoomIDReply:
    """Create a room."""
    addresses = checked([one.invited() for one in body.invite_3pid])
    new = NewRoom(
        preset=body.preset,
        public=body.visibility == "public",
        alias=call.app.directory.local_alias(call.session, body.room_alias_name),
        name=body.name,
        topic=body.topic,
        invite=tuple(body.invite),
        room_version=body.room_version,
        creation_content=body.creation_content,
        initial_state=tuple(
            InitialState(state.type, state.content, state.state_key) for state in body.initial_state
        ),
        is_direct=body.is_direct,
        power_levels=body.power_level_content_override,
    )
    profile = await call.app.profiles.in_rooms(call.session.user_id)
    room_id = await call.app.create_room(call.session.user_id, profile, new)
    await call.app.address_invites.invite_to_new(call.session.user_id, room_id, addresses)
    return RoomIDReply(room_id)


@endpoint(
    "PUT /_matrix/client/v3/rooms/{room_id}/send/{event_type}/{txn_id}",
    spec="client-server-api#put_matrixclientv3roomsroomidsendeventtypetxnid",
    auth=Client(guests=True, suspended=False),
    limit="send",
)
async def send_event(
    call: Call, room_id: RoomID, event_type: str, txn_id: str, body: JsonObject, query: SendQuery
) -> EventIDReply | DelayReply:
    """Send a message event, or have it sent later."""
    call.app.presence.active(call.session)
    room = await call.app.rooms.known(room_id)
    if query.delay is not None:
        return await _delayed(call, room, event_type, None, body, query.delay, query.sticky_ms)
    user_id, txn = call.session.user_id, _txn(call, txn_id)
    event_id = await call.app.posting.send(
        user_id, room, event_type, body, txn, _ts(call), query.sticky_ms
    )
    return EventIDReply(event_id)


@endpoint(
    "PUT /_matrix/client/v3/rooms/{room_id}/state/{event_type}/{state_key}",
    spec="client-server-api#put_matrixclientv3roomsroomidstateeventtypestatekey",
    auth=Client(guests=True, suspended=False),
    limit="send",
    also=["/_matrix/client/v3/rooms/{room_id}/state/{event_type}"],
)
async def put_state(
    call: Call,
    room_id: RoomID,
    event_type: str,
    body: JsonObject,
    query: DelayQuery,
    state_key: str = "",
) -> EventIDReply | DelayReply:
    """Set a piece of the room's state, or have it set later."""
    room = await call.app.rooms.known(room_id)
    if query.delay is not None:
        return await _delayed(call, room, event_type, state_key, body, query.delay)
    user_id = call.session.user_id
    if event_type == "m.room.member":
        event_id = await call.app.members.put_state(
            user_id, room, state_key, body, guest=call.session.is_guest, ts=_ts(call)
        )
    else:
        event_id = await call.app.posting.put_state(
            user_id, room, event_type, state_key, body, _ts(call)
        )
    return EventIDReply(event_id)


@endpoint(
    "PUT /_matrix/client/v3/rooms/{room_id}/redact/{event_id}/{txn_id}",
    spec="client-server-api#put_matrixclientv3roomsroomidredacteventidtxnid",
    auth=Client(),
    limit="send",
)
async def redact_event(
    call: Call, room_id: RoomID, event_id: EventID, txn_id: str, body: RedactBody = RedactBody()
) -> EventIDReply:
    """Redact an event."""
    room = await call.app.rooms.known(room_id)
    content: JsonObject = {} if body.reason is None else {"reason": body.reason}
    redaction_id = await call.app.posting.redact(
        call.session.user_id, room, event_id, content, _txn(call, txn_id)
    )
    return EventIDReply(redaction_id)


@endpoint(
    "GET /_matrix/client/v3/rooms/{room_id}/event/{event_id}",
    spec="client-server-api#get_matrixclientv3roomsroomideventeventid",
    auth=Client(guests=True),
)
async def get_event(call: Call, room_id: RoomID, event_id: EventID) -> Raw:
    """One event; whoever may not read it can't tell it from one that doesn't exist."""
    history = call.app.history
    looking = await history.look(call.session, room_id, hide=True)
    return Raw(await history.whole(looking, await history.event(looking, event_id)))


@endpoint(
    "GET /_matrix/client/v3/rooms/{room_id}/state/{event_type}/{state_key}",
    spec="client-server-api#get_matrixclientv3roomsroomidstateeventtypestatekey",
    auth=Client(guests=True),
    also=["/_matrix/client/v3/rooms/{room_id}/state/{event_type}"],
)
async def get_state_event(
    call: Call, room_id: RoomID, event_type: str, query: StateQuery, state_key: str = ""
) -> Raw:
    """One piece of the room's state, its content or the whole event."""
    history = call.app.history
    looking = await history.look(call.session, room_id)
    view = await history.state_event(looking, (event_type, state_key))
    if query.format == "event":
        return Raw(history.json(looking, view))
    return Raw.json(content_of(view))


@endpoint(
    "GET /_matrix/client/v3/rooms/{room_id}/state",
    spec="client-server-api#get_matrixclientv3roomsroomidstate",
    auth=Client(guests=True),
    limit="read_heavy",
)
async def get_state(call: Call, room_id: RoomID) -> Raw:
    """The room's whole state."""
    history = call.app.history
    looking = await history.look(call.session, room_id)
    return Raw(history.json_list(looking, await history.state(looking)))


@endpoint(
    "GET /_matrix/client/v3/rooms/{room_id}/context/{event_id}",
    spec="client-server-api#get_matrixclientv3roomsroomidcontexteventid",
    auth=Client(guests=True),
    limit="read_heavy",
)
async def get_context(call: Call, room_id: RoomID, event_id: EventID, query: ContextQuery) -> Raw:
    """An event and what happened around it."""
    looking = await call.app.history.look(call.session, room_id)
    context = await call.app.pages.context(
        looking, event_id, query.limit, event_filter(query.filter)
    )
    return Raw(context)


@endpoint(
    "GET /_matrix/client/v3/rooms/{room_id}/messages",
    spec="client-server-api#get_matrixclientv3roomsroomidmessages",
    auth=Client(guests=True),
    limit="read_heavy",
)
async def get_messages(call: Call, room_id: RoomID, query: MessagesQuery) -> Raw:
    """A page of the room's history."""
    looking = await call.app.history.look(call.session, room_id)
    page = await call.app.pages.messages(
        looking,
        event_filter(query.filter),
        start=query.from_,
        to=query.to,
        limit=query.limit,
        backwards=query.dir == "b",
    )
    return Raw(page)


@endpoint(
    "GET /_matrix/client/v3/rooms/{room_id}/members",
    spec="client-server-api#get_matrixclientv3roomsroomidmembers",
    auth=Client(guests=True),
    limit="read_heavy",
)
async def get_members(call: Call, room_id: RoomID, query: MembersQuery) -> Raw:
    """The room's member events."""
    looking = await call.app.history.look(call.session, room_id)
    members = await call.app.pages.members(
        looking, at=query.at, only=query.membership, but=query.not_membership
    )
    return Raw(members)


@endpoint(
    "GET /_matrix/client/v3/rooms/{room_id}/joined_members",
    spec="client-server-api#get_matrixclientv3roomsroomidjoined_members",
    auth=Client(guests=True),
    limit="read_heavy",
)
async def get_joined_members(call: Call, room_id: RoomID) -> Raw:
    """The joined members with their names and pictures."""
    looking = await call.app.history.look(call.session, room_id)
    return Raw.json({"joined": await call.app.pages.joined_members(looking)})


@endpoint(
    "GET /_matrix/client/v3/joined_rooms",
    spec="client-server-api#get_matrixclientv3joined_rooms",
    auth=Client(guests=True),
)
async def get_joined_rooms(call: Call) -> JoinedRoomsReply:
    """The rooms that the user is in."""
    user = await call.app.memberships.of(call.session.user_nid)
    rooms = await call.app.rooms.by_nids(user.joined)
    return JoinedRoomsReply([room.room_id for room in rooms.values()])


async def _delayed(
    call: Call,
    room: Room,
    event_type: str,
    state_key: str | None,
    body: JsonObject,
    delay: int,
    sticky_ms: int | None = None,
) -> DelayReply:
    delayed = call.app.chapters.delayed
    return DelayReply(
        await delayed.schedule(call.session, room, event_type, state_key, body, delay, sticky_ms)
    )


def event_filter(text: str | None) -> EventFilter:
    """The `filter` parameter of an endpoint that takes a RoomEventFilter as JSON."""
    try:
        return EventFilter.parse(canonical.decode_object(text) if text else {})
    except Malformed as error:
        raise MatrixError.bad_json(f"filter: {error}") from None


def _ts(call: Call) -> int | None:
    """The event's time, which application services may choose; others' `ts` is passed over.

    spec: application-service-api#timestamp-massaging
    """
    given = call.request.query.get("ts") if call.session.service is not None else None
    if given is None:
        return None
    if not given[0].isascii() or not given[0].isdecimal() or int(given[0]) >= 2**53:
        raise MatrixError.invalid_param("ts: not a time in milliseconds")
    return int(given[0])


def _txn(call: Call, txn_id: str) -> Txn:
    if len(txn_id.encode()) > 255:
        raise MatrixError.invalid_param("txnId: longer than 255 bytes")
    session = call.session
    # Requests of an application service without a device have the user for their scope.
    scope = -session.user_nid if session.device_nid is None else session.device_nid
    return Txn(scope, call.path_hash, txn_id)
