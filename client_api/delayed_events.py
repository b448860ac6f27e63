"""Delayed events (MSC4140): what waits to be sent, and putting it off, dropping or sending it.

They are made by the endpoints that send events. spec: client-server-api#sending-events-to-a-room
"""

from typing import Literal

from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, Client, NoAuth, endpoint
from homeserver.http.shape import Empty, Shape
from homeserver.matrix.canonical import JsonObject

_PATH = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"
_SPEC = "client-server-api#sending-events-to-a-room"


class ActionBody(Shape):
    action: Literal["cancel", "restart", "send"]


@endpoint(f"GET {_PATH}", spec=_SPEC, auth=Client())
async def get_delayed_events(call: Call) -> JsonObject:
    """The user's events that are not sent yet."""
    return {"delayed_events": await call.app.chapters.delayed.of(call.session)}


@endpoint(f"POST {_PATH}/{{delay_id}}", spec=_SPEC, auth=NoAuth())
async def act_on_delayed_event(call: Call, delay_id: str, body: ActionBody) -> Empty:
    """Drop a delayed event, begin its delay anew, or send it now."""
    await call.app.chapters.delayed.act(delay_id, body.action)
    return Empty()


@endpoint(f"POST {_PATH}/{{delay_id}}/{{action}}", spec=_SPEC, auth=NoAuth())
async def act_by_path(call: Call, delay_id: str, action: str) -> Empty:
    """The same, as newer clients ask for it."""
    if action not in ("cancel", "restart", "send"):
        raise MatrixError("M_UNRECOGNIZED", "There is no such action", 404)
    await call.app.chapters.delayed.act(delay_id, action)  # type: ignore[arg-type]
    return Empty()
