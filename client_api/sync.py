"""/sync.

spec: client-server-api#syncing
"""

from typing import Annotated

import msgspec

from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Raw, Shape
from homeserver.matrix.filters import Filter
from homeserver.streams.sync import SyncRequest
from homeserver.users.presence import State

_NO_FILTER = Filter.parse({})


class SyncQuery(Shape):
    filter: str | None = None
    since: str | None = None
    full_state: bool = False
    set_presence: State | None = None
    timeout: Annotated[int, msgspec.Meta(ge=0)] = 0
    use_state_after: bool = False
    # matrix-js-sdk sends the name that the parameter had as a proposal (MSC4222).
    use_state_after_unstable: bool = msgspec.field(
        default=False, name="org.matrix.msc4222.use_state_after"
    )


@endpoint(
    "GET /_matrix/client/v3/sync",
    spec="client-server-api#get_matrixclientv3sync",
    auth=Client(guests=True),
)
async def sync(call: Call, query: SyncQuery) -> Raw:
    """What has happened since a token, waiting for it where nothing has."""
    if not query.since:
        call.app.limits.check("initial_sync", call.session, call.request)
    wanted = _NO_FILTER
    if query.filter:
        wanted = await call.app.filters.get(call.session.user_nid, query.filter)
    request = SyncRequest(
        session=call.session,
        since=query.since or None,
        filter=wanted,
        timeout=min(query.timeout, call.app.config.sync.max_timeout_ms) / 1000,
        full_state=query.full_state,
        state_name=(
            "state_after"
            if query.use_state_after
            else "org.matrix.msc4222.state_after"
            if query.use_state_after_unstable
            else "state"
        ),
    )
    with call.app.presence.polling(call.session, query.set_presence):
        answer = await call.app.sync(request)
    call.app.sessions.check(call.session)
    return Raw(answer)
