"""The device that a user leaves on the server. MSC3814."""

from typing import Annotated

import msgspec

from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Raw, Shape
from homeserver.matrix.canonical import JsonObject

_PATH = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"


class DehydratedBody(Shape):
    device_id: str
    device_data: JsonObject
    device_keys: JsonObject
    initial_device_display_name: str | None = None
    one_time_keys: JsonObject | None = None
    fallback_keys: JsonObject | None = None


@endpoint(f"PUT {_PATH}", spec="", auth=Client())
async def put_dehydrated(call: Call, body: DehydratedBody) -> JsonObject:
    """Make the device, in place of the one before."""
    await call.app.encryption.dehydrated.put(
        call.session,
        body.device_id,
        body.device_data,
        body.initial_device_display_name,
        body.device_keys,
        body.one_time_keys or {},
        body.fallback_keys or {},
    )
    return {"device_id": body.device_id}


@endpoint(f"GET {_PATH}", spec="", auth=Client())
async def get_dehydrated(call: Call) -> JsonObject:
    """What restores the device."""
    return await call.app.encryption.dehydrated.get(call.session)


@endpoint(f"DELETE {_PATH}", spec="", auth=Client())
async def delete_dehydrated(call: Call) -> JsonObject:
    """Remove the device."""
    return {"device_id": await call.app.encryption.dehydrated.delete(call.session)}


class EventsQuery(Shape):
    from_: str | None = msgspec.field(default=None, name="from")
    limit: Annotated[int, msgspec.Meta(ge=1)] = 100


@endpoint(f"GET {_PATH}/{{device_id}}/events", spec="", auth=Client())
async def get_events(call: Call, device_id: str, query: EventsQuery) -> Raw:
    """The messages that the device was sent, page by page."""
    dehydrated = call.app.encryption.dehydrated
    found = await dehydrated.events(call.session, device_id, query.from_, query.limit, token=False)
    return Raw(found)


class EventsBody(Shape):
    next_batch: str | None = None


@endpoint(f"POST {_PATH}/{{device_id}}/events", spec="", auth=Client())
async def post_events(
    call: Call, device_id: str, query: EventsQuery, body: EventsBody = EventsBody()
) -> Raw:
    """The same, as clients asked for it before, who go on until a page is empty."""
    dehydrated = call.app.encryption.dehydrated
    found = await dehydrated.events(
        call.session, device_id, body.next_batch, query.limit, token=True
    )
    return Raw(found)
