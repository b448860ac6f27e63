"""Messages to devices.

spec: client-server-api#send-to-device-messaging
"""

from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Empty, Shape
from homeserver.matrix.canonical import JsonObject


class MessagesBody(Shape):
    messages: dict[str, dict[str, JsonObject]]


@endpoint(
    "PUT /_matrix/client/v3/sendToDevice/{event_type}/{txn_id}",
    spec="client-server-api#put_matrixclientv3sendtodeviceeventtypetxnid",
    auth=Client(guests=True),
    limit="signal",
)
async def send_to_device(call: Call, event_type: str, txn_id: str, body: MessagesBody) -> Empty:
    """Send messages to devices."""
    txn = (call.path_hash, txn_id)
    await call.app.encryption.inboxes.send(call.session, event_type, txn, body.messages)
    return Empty()
