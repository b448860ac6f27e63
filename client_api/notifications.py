"""What the user was notified about.

spec: client-server-api#listing-notifications
"""

from typing import Annotated

import msgspec

from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Raw, Shape


class NotificationsQuery(Shape):
    start: str | None = msgspec.field(default=None, name="from")
    limit: Annotated[int, msgspec.Meta(ge=1)] = 20
    only: str | None = None


@endpoint(
    "GET /_matrix/client/v3/notifications",
    spec="client-server-api#get_matrixclientv3notifications",
    auth=Client(),
    limit="read_heavy",
)
async def notifications(call: Call, query: NotificationsQuery) -> Raw:
    """Events that notified the user, newest first."""
    return Raw(
        await call.app.push.notifications(
            call.session, query.start, query.limit, highlights=query.only == "highlight"
        )
    )
