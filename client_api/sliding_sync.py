"""Simplified sliding sync, in the forms that clients use today and that of the proposal's text.

spec: MSC4186
"""

from collections.abc import Sized
from typing import Annotated

import msgspec

from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Int, Natural, Raw, Shape
from homeserver.streams.required import Required, of_elements, of_pairs
from homeserver.streams.sliding.asked import (
    Asked,
    Extensions,
    ListConfig,
    ListFilter,
    Messages,
    RoomConfig,
    Scope,
    SlidingRequest,
    Sticky,
)
from homeserver.users.presence import State

MAX_LISTS = 100
MAX_SUBSCRIPTIONS = 5_000
MAX_RANGES = 100
MAX_LIMIT = 1_000
_MAX_NAMED = 1_000
_MAX_KEY = 255

Timeout = Annotated[int, msgspec.Meta(ge=0)]


class Element(Shape):
    type: str | None = None
    state_key: str | None = None


class RequiredState(Shape):
    include: list[Element] = []
    exclude: list[Element] = []
    lazy_members: bool = False


class RoomParameters(Shape):
    timeline_limit: Natural
    required_state: list[tuple[str, str]] | RequiredState = []


class Filters(Shape):
    is_dm: bool | None = None
    is_encrypted: bool | None = None
    is_invite: bool | None = None
    is_invited: bool | None = None
    spaces: list[str] | None = None
    room_types: list[str | None] | None = None
    not_room_types: list[str | None] | None = None
    tags: list[str] | None = None
    not_tags: list[str] | None = None


class ListParameters(RoomParameters):
    ranges: list[tuple[Natural, Natural]] | None = None
    range: tuple[Natural, Natural] | None = None
    slow_get_all_rooms: bool | None = None
    filters: Filters | None = None


class ToDevice(Shape):
    enabled: bool | None = None
    since: str | None = None
    limit: Int | None = None


class StickyEvents(Shape):
    enabled: bool | None = None
    since: str | None = None
    limit: Int | None = None


class Enabled(Shape):
    enabled: bool | None = None


class Scoped(Shape):
    enabled: bool | None = None
    lists: list[str] | None = None
    rooms: list[str] | None = None


class Limited(Shape):
    enabled: bool | None = None
    limit: Int | None = None


class ExtensionParameters(Shape):
    to_device: ToDevice | None = None
    e2ee: Enabled | None = None
    account_data: Scoped | None = None
    receipts: Scoped | None = None
    typing: Scoped | None = None
    thread_subscriptions: Limited | None = msgspec.field(
        default=None, name="io.element.msc4308.thread_subscriptions"
    )
    sticky_events: StickyEvents | None = msgspec.field(
        default=None, name="org.matrix.msc4354.sticky_events"
    )


class SlidingBody(Shape):
    """`txn_id` is passed over: a client that hears it again takes its request for remembered."""

    conn_id: str = ""
    pos: str | None = None
    timeout: Timeout | None = None
    set_presence: State | None = None
    lists: dict[str, ListParameters] = {}
    room_subscriptions: dict[str, RoomParameters] = {}
    extensions: ExtensionParameters | None = None


class SlidingQuery(Shape):
    pos: str | None = None
    timeout: Timeout | None = None
    set_presence: State | None = None


@endpoint(
    "POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync",
    spec="MSC4186",
    auth=Client(),
)
async def sliding_sync(call: Call, query: SlidingQuery, body: SlidingBody) -> Raw:
    """What has happened in the rooms that are asked for, waiting for it where nothing has."""
    asked = _asked(body, call.session.user_id)
    pos = query.pos or body.pos or None
    timeout = query.timeout if query.timeout is not None else body.timeout or 0
    if pos is None:
        call.app.limits.check("initial_sync", call.session, call.request)
    request = SlidingRequest(
        session=call.session,
        conn_id=body.conn_id,
        pos=pos,
        timeout=min(timeout, call.app.config.sync.max_timeout_ms) / 1000,
        asked=asked,
    )
    with call.app.presence.polling(call.session, query.set_presence or body.set_presence):
        answer = await call.app.sliding_sync(request)
    call.app.sessions.check(call.session)
    return Raw(answer)


def _asked(body: SlidingBody, user_id: str) -> Asked:
    _check_count("lists", body.lists, MAX_LISTS)
    _check_count("room_subscriptions", body.room_subscriptions, MAX_SUBSCRIPTIONS)
    _check_length("conn_id", body.conn_id)
    for name in body.lists:
        _check_length("lists", name)
    return Asked(
        {name: _list(name, wanted, user_id) for name, wanted in body.lists.items()},
        {
            room_id: _config("room_subscriptions", wanted, user_id)
            for room_id, wanted in body.room_subscriptions.items()
        },
        _extensions(body.extensions or ExtensionParameters()),
    )


def _config(where: str, wanted: RoomParameters, user_id: str) -> RoomConfig:
    if wanted.timeline_limit > MAX_LIMIT:
        raise MatrixError.invalid_param(f"{where}: timeline_limit is at most {MAX_LIMIT}")
    return RoomConfig(wanted.timeline_limit, _required(wanted.required_state, user_id))


def _required(wanted: list[tuple[str, str]] | RequiredState, user_id: str) -> Required:
    if not isinstance(wanted, RequiredState):
        return of_pairs(wanted, user_id)
    include, exclude = (
        [(element.type, element.state_key) for element in elements]
        for elements in (wanted.include, wanted.exclude)
    )
    return of_elements(include, exclude, user_id, lazy=wanted.lazy_members)


def _list(name: str, wanted: ListParameters, user_id: str) -> ListConfig:
    where = f"lists.{name}"
    ranges = wanted.ranges
    if ranges is None and wanted.range is not None:
        ranges = [wanted.range]
    if wanted.slow_get_all_rooms:
        ranges = None
    if ranges is not None:
        _check_count(f"{where}.ranges", ranges, MAX_RANGES)
        if any(start > end for start, end in ranges):
            raise MatrixError.invalid_param(f"{where}.ranges: a range ends before it starts")
    filters = wanted.filters or Filters()
    for names in (
        filters.spaces,
        filters.room_types,
        filters.not_room_types,
        filters.tags,
        filters.not_tags,
    ):
        _check_count(f"{where}.filters", names or (), _MAX_NAMED)
    return ListConfig(
        _config(where, wanted, user_id),
        None if ranges is None else tuple(ranges),
        ListFilter(
            is_dm=filters.is_dm,
            is_encrypted=filters.is_encrypted,
            is_invite=filters.is_invite if filters.is_invited is None else filters.is_invited,
            spaces=_set(filters.spaces),
            room_types=None if filters.room_types is None else frozenset(filters.room_types),
            not_room_types=(
                None if filters.not_room_types is None else frozenset(filters.not_room_types)
            ),
            tags=_set(filters.tags),
            not_tags=_set(filters.not_tags),
        ),
    )


def _extensions(wanted: ExtensionParameters) -> Extensions:
    messages = None
    if wanted.to_device is not None and wanted.to_device.enabled:
        limit = wanted.to_device.limit
        messages = Messages(wanted.to_device.since or None, 100 if limit is None else limit)
    sticky = None
    if wanted.sticky_events is not None and wanted.sticky_events.enabled:
        limit = wanted.sticky_events.limit
        sticky = Sticky(wanted.sticky_events.since or None, 100 if limit is None else limit)
    threads = wanted.thread_subscriptions
    return Extensions(
        messages,
        sticky,
        bool(wanted.e2ee is not None and wanted.e2ee.enabled),
        _scope(wanted.account_data),
        _scope(wanted.receipts),
        _scope(wanted.typing),
        (100 if threads.limit is None else threads.limit) if threads and threads.enabled else None,
    )


def _scope(wanted: Scoped | None) -> Scope | None:
    if wanted is None or not wanted.enabled:
        return None
    lists, rooms = (
        None if names is None or "*" in names else frozenset(names)
        for names in (wanted.lists, wanted.rooms)
    )
    return Scope(lists, rooms)


def _set(names: list[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)


def _check_count(name: str, given: Sized, most: int) -> None:
    if len(given) > most:
        raise MatrixError.invalid_param(f"{name}: at most {most} are taken")


def _check_length(name: str, text: str) -> None:
    if len(text) > _MAX_KEY:
        raise MatrixError.invalid_param(f"{name}: at most {_MAX_KEY} characters are taken")
