"""Bringing notifications to where pushers want them, and speaking to push gateways.

Owns the way of a notification out, through the one safe client: a request as the pusher's kind has
it, and whether its answer means that it was taken. The kind of most is here, that of a gateway;
`ways.py` knows the others. When it is tried again is decided in `queues.py`.
spec: push-gateway-api#post_matrixpushv1notify
"""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from homeserver.http.outbound import AddressDenied, Answer, Outbound, OutboundFailed
from homeserver.matrix.canonical import JsonObject, decode_object, encode
from homeserver.matrix.errors import Malformed
from storage.schema import PusherRow

log = logging.getLogger(__name__)

PATH = "/_matrix/push/v1/notify"
_SECONDS = 20.0
_MAX_ANSWER = 65_536
_PUSHERS = 5_000
"""Of so many pushers is remembered what they have said."""
_HEADERS = {"Content-Type": "application/json"}
_TOO_LARGE = 413
_ADDRESS = re.compile(r"[!-~]+")
_NO_BADGE = ("disable_badge_count", "org.matrix.msc4076.disable_badge_count")


class GatewayFailed(Exception):
    """The gateway did not take a notification; the text says why."""


@dataclass(frozen=True)
class Notice:
    """An event for the users to whom it is the same; `full` is what is told beyond its id."""

    room_id: str
    event_id: str
    full: JsonObject
    tweaks: JsonObject
    urgent: bool

    @property
    def id_members(self) -> JsonObject:
        """The members of a notification that say no more than which event it is."""
        prio = "high" if self.urgent else "low"
        return {"event_id": self.event_id, "room_id": self.room_id, "prio": prio}

    @cached_property
    def by_id(self) -> bytes:
        """The same as JSON."""
        return _members(self.id_members)

    @cached_property
    def whole(self) -> bytes:
        """Those that say all, as JSON."""
        return self.by_id + b"," + _members(self.full)

    @cached_property
    def of_device(self) -> bytes:
        """What the device is told with them, as JSON."""
        return b',"tweaks":' + encode(self.tweaks)


class Waiting(NamedTuple):
    """What one pusher is to be told; a badge has no `notice`."""

    room_nid: int
    pos: int
    notice: Notice | None
    invites: bool = False


class Request(NamedTuple):
    """A POST that tells a pusher something."""

    url: str
    headers: Mapping[str, str]
    body: bytes


class Way(Protocol):
    """How one pusher is told, as it has said.

    `host` is where, which it has in common with others; `ids_only` wants to know no more of an
    event than which it is; without `wants_badge` nothing is told but events. One that is `direct`
    leads to where the app listens, so the pusher ends when this server must not connect there; a
    gateway may be allowed later.
    """

    direct: bool
    host: str
    ids_only: bool
    wants_badge: bool

    def request(self, notice: Notice | None, unread: int, *, ids_only: bool) -> Request:
        """What is sent to notify of this; without a `notice` only the badge changes."""

    def took(self, answer: Answer) -> bool:
        """Whether it was taken. False: the pusher's key is no more; raises `GatewayFailed`."""


WayOf = Callable[[str, str, int, bytes], Way]
"""The way to a pusher by `app_id`, `pushkey`, `created_ts` and `json` of its row."""


class Target(NamedTuple):
    """A pusher that is told over HTTP, and the way to it."""

    row: PusherRow
    way: Way


class Gateway:
    """See the module."""

    def __init__(self, outbound: Outbound, way_of: WayOf) -> None:
        self._outbound = outbound
        self._way_of: WayOf = lru_cache(maxsize=_PUSHERS)(way_of)

    def target(self, row: PusherRow) -> Target:
        """The pusher as it can be told."""
        return Target(row, self._way_of(row.app_id, row.pushkey, row.created_ts, row.json))

    async def push(self, target: Target, notice: Notice | None, unread: int) -> bool:
        """Notify; without a `notice` only the badge changes. False: the pusher's key is no more.

        What is too large for the receiver is told by its id. Raises `GatewayFailed`.
        """
        way = target.way
        answer = await self._ask(way, way.request(notice, unread, ids_only=way.ids_only))
        if answer is not None and answer.status == _TOO_LARGE:
            answer = await self._ask(way, way.request(notice, unread, ids_only=True))
        return answer is not None and way.took(answer)

    async def bring(self, way: Way, request: Request) -> bool:
        """As `push`, for a request that is made already."""
        answer = await self._ask(way, request)
        return answer is not None and way.took(answer)

    async def _ask(self, way: Way, request: Request) -> Answer | None:
        """The answer, whatever it is; None from where this server must not connect to."""
        try:
            return await self._outbound.fetch(
                "POST",
                request.url,
                headers=request.headers,
                body=request.body,
                seconds=_SECONDS,
                max_bytes=_MAX_ANSWER,
            )
        except AddressDenied as error:
            if not way.direct:
                raise GatewayFailed(str(error)) from None
            log.warning("a pusher at %s ends: %s", way.host, error)
            return None
        except OutboundFailed as error:
            raise GatewayFailed(str(error)) from None


class ByGateway:
    """The way over a push gateway."""

    __slots__ = ("_device", "_pushkey", "_url", "host", "ids_only", "wants_badge")

    direct = False

    def __init__(self, app_id: str, pushkey: str, created_ts: int, data: JsonObject) -> None:
        self._pushkey = pushkey
        self._url: str = data["url"]
        self._device = device_of(app_id, pushkey, created_ts, data)
        self.host = host_of(self._url)
        self.ids_only = data.get("format") == "event_id_only"
        self.wants_badge = wants_badge(data)

    def request(self, notice: Notice | None, unread: int, *, ids_only: bool) -> Request:
        """See `Way`."""
        counted = unread if self.wants_badge else None
        return Request(self._url, _HEADERS, body_of(self._device, notice, counted, ids_only))

    def took(self, answer: Answer) -> bool:
        """See `Way`."""
        if answer.status != 200:
            raise GatewayFailed(f"the gateway answered with status {answer.status}")
        try:
            rejected = decode_object(answer.body).get("rejected")
        except Malformed:
            raise GatewayFailed("the gateway's answer is not JSON") from None
        return not (isinstance(rejected, list) and self._pushkey in rejected)


def device_of(app_id: str, pushkey: str, created_ts: int, data: JsonObject) -> bytes:
    """The members of a notified device as JSON, with what its pusher has said in `data`."""
    device: JsonObject = {
        "app_id": app_id,
        "pushkey": pushkey,
        "pushkey_ts": created_ts // 1_000,
        "data": {name: value for name, value in data.items() if name != "url"},
    }
    return _members(device)


def body_of(device: bytes, notice: Notice | None, unread: int | None, ids_only: bool) -> bytes:
    """A notification as it is sent: what is the same for many was encoded once."""
    said = b""
    if notice is not None:
        said = notice.by_id + b","
        if not ids_only:
            said = notice.whole + b","
            device += notice.of_device
    if unread is not None:
        said += b'"counts":{"unread":%d},' % unread
    return b'{"notification":{%b"devices":[{%b}]}}' % (said, device)


def is_address(text: str, *schemes: str) -> bool:
    """Whether this is an URL of such a scheme that can be asked."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in schemes and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        return False
    return usable and _ADDRESS.fullmatch(text) is not None


def wants_badge(data: JsonObject) -> bool:
    """Whether a pusher wants to know how much is unread (MSC4076)."""
    return not any(data.get(name) is True for name in _NO_BADGE)


def host_of(url: str) -> str:
    """The host and port of an address, as they are written there."""
    return url.partition("://")[2].partition("/")[0]


def _members(value: JsonObject) -> bytes:
    return encode(value)[1:-1]
