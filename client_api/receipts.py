"""Receipts and read markers.

spec: client-server-api#receipts and client-server-api#fully-read-markers
"""

import msgspec

from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Empty, EventID, RoomID, Shape
from homeserver.matrix.canonical import JsonObject
from homeserver.users.receipts import Receipt, thread_in


@endpoint(
    "POST /_matrix/client/v3/rooms/{room_id}/receipt/{receipt_type}/{event_id}",
    spec="client-server-api#post_matrixclientv3roomsroomidreceiptreceipttypeeventid",
    auth=Client(guests=True),
    limit="signal",
)
async def post_receipt(
    call: Call,
    room_id: RoomID,
    receipt_type: str,
    event_id: EventID,
    body: JsonObject | None = None,
) -> Empty:
    """Say that everything up to an event was read."""
    room = await call.app.own_rooms.joined(call.session.user_nid, room_id)
    receipt = Receipt(receipt_type, event_id, thread_in(body))
    await call.app.receipts.move(call.session, room, receipt)
    return Empty()


class MarkersBody(Shape):
    fully_read: EventID | None = msgspec.field(default=None, name="m.fully_read")
    read: EventID | None = msgspec.field(default=None, name="m.read")
    read_private: EventID | None = msgspec.field(default=None, name="m.read.private")


@endpoint(
    "POST /_matrix/client/v3/rooms/{room_id}/read_markers",
    spec="client-server-api#post_matrixclientv3roomsroomidread_markers",
    auth=Client(guests=True),
    limit="signal",
)
async def post_read_markers(call: Call, room_id: RoomID, body: MarkersBody) -> Empty:
    """Set the fully read marker, and receipts with it."""
    room = await call.app.own_rooms.joined(call.session.user_nid, room_id)
    named = {
        "m.fully_read": body.fully_read,
        "m.read": body.read,
        "m.read.private": body.read_private,
    }
    receipts = [Receipt(kind, event_id) for kind, event_id in named.items() if event_id]
    await call.app.receipts.move(call.session, room, *receipts)
    return Empty()
