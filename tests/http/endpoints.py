"""Small endpoints that show back what they received."""

import asyncio
import sys

import msgspec

from homeserver.errors import MatrixError
from homeserver.http.endpoint import (
    Call,
    Client,
    Endpoint,
    NoAuth,
    OptionalClient,
    endpoint,
    endpoints_of,
)
from homeserver.http.shape import (
    Empty,
    EventID,
    Html,
    Natural,
    Raw,
    Redirect,
    RoomID,
    RoomIDOrAlias,
    Shape,
    UserID,
)
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Malformed, Rejected

waiting = asyncio.Event()
cancelled = asyncio.Event()


class TypingBody(Shape):
    typing: bool
    timeout: Natural = 30_000
    tags: list[str] = msgspec.field(default_factory=list)
    invitee: UserID | None = None


class Listing(Shape):
    since: str = msgspec.field(name="from", default="")
    limit: Natural = 10
    full: bool = False
    server: list[str] = msgspec.field(default_factory=list)
    user: UserID | None = None


class Required(Shape):
    token: str


@endpoint("PUT /_matrix/client/v3/rooms/{room_id}/typing/{user_id}", spec="", auth=Client())
async def typing(call: Call, room_id: RoomID, user_id: UserID, body: TypingBody) -> JsonObject:
    return {"room": room_id, "user": user_id, "typing": body.typing, "timeout": body.timeout}


@endpoint(
    "PUT /_matrix/client/v3/rooms/{room_id}/send/{event_type}/{txn_id}", spec="", auth=Client()
)
async def send(
    call: Call, room_id: RoomID, event_type: str, txn_id: str, body: JsonObject
) -> JsonObject:
    return {"room": room_id, "type": event_type, "txn": txn_id, "body": body, "h": call.path_hash}


@endpoint(
    "PUT /_matrix/client/v3/rooms/{room_id}/state/{event_type}/{state_key}",
    spec="",
    auth=Client(),
    also=["/_matrix/client/v3/rooms/{room_id}/state/{event_type}"],
)
async def put_state(
    call: Call, room_id: RoomID, event_type: str, body: JsonObject, state_key: str = ""
) -> JsonObject:
    return {"type": event_type, "key": state_key}


@endpoint("GET /_matrix/client/v3/rooms/{room_id}/event/{event_id}", spec="", auth=Client())
async def get_event(call: Call, room_id: RoomID, event_id: EventID) -> JsonObject:
    return {"event": event_id}


@endpoint("POST /_matrix/client/v3/join/{room}", spec="", auth=Client(guests=True))
async def join(call: Call, room: RoomIDOrAlias, body: JsonObject | None = None) -> JsonObject:
    return {"room": room, "body": body}


@endpoint("GET /_matrix/client/v3/list", spec="", auth=OptionalClient())
async def listing(call: Call, query: Listing) -> JsonObject:
    return {
        "from": query.since,
        "limit": query.limit,
        "full": query.full,
        "server": query.server,
        "user": query.user,
        "who": call.maybe_session.user_id if call.maybe_session else None,
    }


@endpoint("GET /_matrix/client/v3/required", spec="", auth=NoAuth())
async def required(call: Call, query: Required) -> JsonObject:
    return {"token": query.token, "remote": call.request.remote, "agent": call.request.user_agent}


@endpoint("GET /_matrix/client/v3/pushrules/", spec="", auth=Client())
async def rules(call: Call) -> Empty:
    return Empty()


@endpoint("GET /_matrix/client/v3/pushrules/global/{kind}", spec="", auth=Client())
async def rule(call: Call, kind: str) -> JsonObject:
    return {"kind": kind}


@endpoint("GET /_matrix/client/v3/pushrules/{scope}/extra", spec="", auth=Client())
async def scoped(call: Call, scope: str) -> JsonObject:
    return {"scope": scope}


@endpoint("POST /_matrix/client/v3/logout", spec="", auth=Client())
async def logout(call: Call) -> Empty:
    return Empty()


@endpoint("GET /_matrix/client/v3/admin_only", spec="", auth=Client(admin=True))
async def admin_only(call: Call) -> Empty:
    return Empty()


@endpoint("GET /_matrix/client/v3/fail/{how}", spec="", auth=NoAuth())
async def fail(call: Call, how: str) -> Empty:
    if how == "rejected":
        raise Rejected("You are banned")
    if how == "malformed":
        raise Malformed("depth is not a number")
    if how == "limited":
        raise MatrixError(
            "M_LIMIT_EXCEEDED",
            "Slow down",
            429,
            extra={"retry_after_ms": 1500},
            headers={"Retry-After": "2"},
        )
    if how == "interactive":
        raise MatrixError("", "", 401, extra={"flows": [], "session": "s"})
    if how == "recursion":
        raise RecursionError
    raise ZeroDivisionError("secret detail")


@endpoint("GET /_matrix/client/v3/wait", spec="", auth=NoAuth())
async def wait(call: Call) -> Empty:
    waiting.set()
    try:
        await asyncio.Event().wait()
    finally:
        cancelled.set()
    return Empty()


@endpoint("GET /_matrix/client/v3/tidy", spec="", auth=NoAuth())
async def tidy(call: Call) -> Empty:
    waiting.set()
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0.05)
        cancelled.set()
    return Empty()


@endpoint("GET /_matrix/client/v3/soon", spec="", auth=NoAuth())
async def soon(call: Call) -> Empty:
    waiting.set()
    await cancelled.wait()
    return Empty()


@endpoint("GET /_matrix/client/v3/big/{size}", spec="", auth=NoAuth())
async def big(call: Call, size: str) -> Raw:
    return Raw(b'"' + b"x" * int(size) + b'"')


@endpoint("GET /_matrix/client/v3/page", spec="", auth=NoAuth())
async def page(call: Call) -> Html:
    return Html("<p>é</p>")


@endpoint("GET /_matrix/client/v3/elsewhere", spec="", auth=NoAuth())
async def elsewhere(call: Call) -> Redirect:
    return Redirect("https://example.org/?a=b")


@endpoint("POST /_matrix/media/upload", spec="", auth=NoAuth(), max_body=200_000)
async def large(call: Call, body: JsonObject) -> JsonObject:
    return {"length": len(body["text"])}


def declared() -> list[Endpoint]:
    """All of the above, with fresh events for this test's loop."""
    global waiting, cancelled
    waiting, cancelled = asyncio.Event(), asyncio.Event()
    return endpoints_of(sys.modules[__name__])
