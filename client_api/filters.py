"""Stored filters.

spec: client-server-api#filtering
"""

from client_api.account_data import check_own
from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Raw, Shape, UserID
from homeserver.matrix.canonical import JsonObject


class FilterId(Shape):
    filter_id: str


@endpoint(
    "POST /_matrix/client/v3/user/{user_id}/filter",
    spec="client-server-api#post_matrixclientv3useruseridfilter",
    auth=Client(guests=True),
)
async def post_filter(call: Call, user_id: UserID, body: JsonObject) -> FilterId:
    """Store a filter."""
    check_own(call, user_id)
    return FilterId(await call.app.filters.store(call.session.user_nid, body))


@endpoint(
    "GET /_matrix/client/v3/user/{user_id}/filter/{filter_id}",
    spec="client-server-api#get_matrixclientv3useruseridfilterfilterid",
    auth=Client(guests=True),
)
async def get_filter(call: Call, user_id: UserID, filter_id: str) -> Raw:
    """A stored filter."""
    check_own(call, user_id)
    return Raw(await call.app.filters.source(call.session.user_nid, filter_id))
