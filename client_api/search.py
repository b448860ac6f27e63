"""Searching messages, and the directory of users.

spec: client-server-api#server-side-search, client-server-api#user-directory
"""

from typing import Annotated, Literal

import msgspec

from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Raw, Shape
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Malformed
from homeserver.matrix.filters import EventFilter
from homeserver.rooms.indexed import KEYS
from homeserver.rooms.search import Query

Limit = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
Key = Literal["content.body", "content.name", "content.topic"]


class ContextBody(Shape):
    before_limit: Limit = 5
    after_limit: Limit = 5
    include_profile: bool = False


class GroupBody(Shape):
    key: Literal["room_id", "sender"]


class GroupingsBody(Shape):
    group_by: list[GroupBody] = []


class RoomEventsBody(Shape):
    search_term: str
    keys: list[Key] | None = None
    filter: JsonObject = {}
    order_by: Literal["recent", "rank"] = "rank"
    event_context: ContextBody | None = None
    include_state: bool = False
    groupings: GroupingsBody | None = None


class CategoriesBody(Shape):
    room_events: RoomEventsBody | None = None


class SearchBody(Shape):
    search_categories: CategoriesBody


class SearchQuery(Shape):
    next_batch: str | None = None


class UsersBody(Shape):
    search_term: str
    limit: Limit = 10


@endpoint(
    "POST /_matrix/client/v3/search",
    spec="client-server-api#post_matrixclientv3search",
    auth=Client(),
    limit="read_heavy",
)
async def search(call: Call, body: SearchBody, query: SearchQuery) -> Raw:
    """Messages that hold some words."""
    wanted = body.search_categories.room_events
    if wanted is None:
        return Raw(b'{"search_categories":{}}')
    try:
        event_filter = EventFilter.parse(wanted.filter)
    except Malformed as error:
        raise MatrixError.bad_json(f"filter: {error}") from None
    context = wanted.event_context
    groups = wanted.groupings.group_by if wanted.groupings is not None else []
    found = await call.app.chapters.search(
        call.session,
        Query(
            term=wanted.search_term,
            keys=tuple(wanted.keys or KEYS),
            filter=event_filter,
            by_rank=wanted.order_by == "rank",
            before=context.before_limit if context is not None else None,
            after=context.after_limit if context is not None else None,
            profiles=context is not None and context.include_profile,
            state=wanted.include_state,
            groups=frozenset(group.key for group in groups),
            start=query.next_batch,
        ),
    )
    return Raw(b'{"search_categories":{"room_events":%b}}' % found)


@endpoint(
    "POST /_matrix/client/v3/user_directory/search",
    spec="client-server-api#post_matrixclientv3user_directorysearch",
    auth=Client(),
    limit="read_heavy",
)
async def search_users(call: Call, body: UsersBody) -> JsonObject:
    """Users by a part of their name or id."""
    return await call.app.chapters.user_directory.search(call.session, body.search_term, body.limit)
