"""UnifiedPush: telling the endpoints of ntfy and other distributors, as its Matrix gateway does.

Owns which pushers are told that way, what their endpoints get, and the gateway that this server is
for others, on the path of the Push Gateway API. A pusher's key is then the URL of its endpoint,
which gets the notification as a gateway would, in at most 4,096 bytes. Invariant: nobody makes this
server ask an endpoint unless one of our users has set a pusher for it with this gateway, so it is
no relay for strangers.

An app looks for a gateway at the host of its endpoint: a GET of the path answers
`{"unifiedpush":{"gateway":"matrix"}}`. Where there is none, most apps take a public one, which
passes notifications on as they come. This server does that itself for its own users.
spec: push-gateway-api#post_matrixpushv1notify, https://unifiedpush.org/developers/spec/server/
"""

import asyncio
from collections.abc import Collection, Iterable
from urllib.parse import urlsplit

from homeserver.errors import MatrixError
from homeserver.http.outbound import Answer
from homeserver.matrix.canonical import JsonObject, decode_object, encode
from homeserver.push.gateway import (
    PATH,
    Gateway,
    GatewayFailed,
    Notice,
    Request,
    body_of,
    device_of,
    host_of,
    is_address,
    wants_badge,
)
from homeserver.runtime.limits import RateLimits, limit_exceeded
from storage import push as store
from storage.engine import Database

MOST_BYTES = 4_096
"""What an endpoint takes at least, and may refuse to take more than."""
MOST_DEVICES = 10
MOST_AT_ONCE = 100
"""How many endpoints are told at once for others."""
_SECONDS_KEPT = 3 * 86_400
_HEADERS = {"Content-Type": "application/json", "TTL": str(_SECONDS_KEPT)}
_URGENT = {**_HEADERS, "Urgency": "high"}
_GONE = (404, 410)
_Key = tuple[str, str]
_OF_AN_ID = ("event_id", "room_id", "prio", "counts")


class Endpoints:
    """Which pushers' keys are endpoints that this server tells itself.

    They are those whose gateway is this one: it is reached at `base_url`, and does the work of the
    gateways at these `hosts`. Without `enabled` there are none.
    """

    def __init__(self, base_url: str, hosts: Iterable[str], *, enabled: bool) -> None:
        ours = {_place(base_url), *(_place(f"https://{host}") for host in hosts)}
        self._ours = frozenset(ours) if enabled else frozenset[str]()
        self.enabled = enabled

    def serves(self, pushkey: str, url: str) -> bool:
        """Whether a pusher of this key that names this gateway is told directly.

        What is no endpoint is the key of another gateway that has our host. The path of a gateway
        is none either: it would pass the notification on, to itself if it is this one.
        """
        if _place(url) not in self._ours or not is_address(pushkey, "http", "https"):
            return False
        return urlsplit(pushkey).path.rstrip("/") != PATH


class Endpoint:
    """The way to the endpoint of a distributor."""

    __slots__ = ("_bare", "_device", "_url", "host", "ids_only", "wants_badge")

    direct = True

    def __init__(self, app_id: str, pushkey: str, created_ts: int, data: JsonObject) -> None:
        self._url = pushkey
        self._device = device_of(app_id, pushkey, created_ts, data)
        self._bare = device_of(app_id, pushkey, created_ts, {})
        self.host = host_of(pushkey)
        self.ids_only = data.get("format") == "event_id_only"
        self.wants_badge = wants_badge(data)

    def request(self, notice: Notice | None, unread: int, *, ids_only: bool) -> Request:
        """See `Way`."""
        counted = unread if self.wants_badge else None
        body = body_of(self._device, notice, counted, ids_only)
        if len(body) > MOST_BYTES:
            body = body_of(self._bare, notice, counted, ids_only=True)
        urgent = notice is not None and notice.urgent
        return Request(self._url, _URGENT if urgent else _HEADERS, body)

    def passing_on(self, notification: JsonObject) -> Request:
        """What is sent to tell of what a server or an app has told this gateway."""
        body = encode({"notification": notification})
        if len(body) > MOST_BYTES:
            short = {name: notification[name] for name in _OF_AN_ID if name in notification}
            body = encode({"notification": short})
        if len(body) > MOST_BYTES:
            raise MatrixError.too_large(f"An endpoint takes at most {MOST_BYTES} bytes")
        return Request(self._url, _URGENT if notification.get("prio") != "low" else _HEADERS, body)

    def took(self, answer: Answer) -> bool:
        """See `Way`."""
        if answer.status in _GONE:
            return False
        if answer.status // 100 != 2:
            raise GatewayFailed(f"the endpoint answered with status {answer.status}")
        return True


class OwnGateway:
    """The gateway that this server is for others: apps that try it, and other servers."""

    def __init__(
        self, database: Database, endpoints: Endpoints, gateway: Gateway, limits: RateLimits
    ) -> None:
        self._database = database
        self._endpoints = endpoints
        self._gateway = gateway
        self._limits = limits
        self._under_way = 0

    def check_enabled(self) -> None:
        """Raise `MatrixError` M_UNRECOGNIZED where this server is no gateway."""
        if not self._endpoints.enabled:
            raise MatrixError("M_UNRECOGNIZED", "This server is no push gateway", 404)

    async def notify(self, notification: JsonObject) -> list[str]:
        """Tell the endpoints of the devices; the keys that are none or are no more.

        Raises `MatrixError`: M_BAD_JSON; M_LIMIT_EXCEEDED; M_TOO_LARGE; M_UNKNOWN (502) when an
        endpoint can't be told now.
        """
        self.check_enabled()
        devices = {(one["app_id"], one["pushkey"]): one for one in _devices(notification)}
        known = await self._known(devices)
        for _, pushkey in known:
            self._limits.charge("push", pushkey)
        if self._under_way + len(known) > MOST_AT_ONCE:
            raise limit_exceeded("Too many endpoints are being told; try again later", 1.0)
        requests = [
            (endpoint, endpoint.passing_on({**notification, "devices": [devices[key]]}))
            for key, endpoint in known.items()
            if endpoint is not None
        ]
        self._under_way += len(requests)
        try:
            ended = await asyncio.gather(*(self._tell(*one) for one in requests))
        finally:
            self._under_way -= len(requests)
        failed = [end for end in ended if isinstance(end, GatewayFailed)]
        if failed:
            raise MatrixError("M_UNKNOWN", f"Not told: {failed[0]}", 502)
        unknown = {pushkey for app_id, pushkey in devices if (app_id, pushkey) not in known}
        return sorted(unknown.union(end for end in ended if isinstance(end, str)))

    async def _tell(self, endpoint: Endpoint, request: Request) -> str | GatewayFailed | None:
        """The key if it is no more, or why it could not be told."""
        try:
            return None if await self._gateway.bring(endpoint, request) else request.url
        except GatewayFailed as failed:
            return failed

    async def _known(self, keys: Collection[_Key]) -> dict[_Key, Endpoint | None]:
        """The endpoints of these keys that our users have set, None for what is switched off."""
        known: dict[_Key, Endpoint | None] = {}
        for key in keys:
            for row in await store.pushers_at(self._database, *key):
                told = decode_object(row.json)
                if told["kind"] != "http" or not self._endpoints.serves(
                    key[1], told["data"]["url"]
                ):
                    continue
                endpoint = Endpoint(*key, row.created_ts, told["data"])
                known[key] = endpoint if row.enabled else known.get(key)
        return known


def _devices(notification: JsonObject) -> list[JsonObject]:
    devices = notification.get("devices")
    if not isinstance(devices, list) or not devices:
        raise MatrixError.bad_json("notification.devices must be a list of devices")
    if len(devices) > MOST_DEVICES:
        raise MatrixError.too_large(f"At most {MOST_DEVICES} devices are told at once")
    for device in devices:
        if not isinstance(device, dict) or not all(
            isinstance(device.get(name), str) for name in ("app_id", "pushkey")
        ):
            raise MatrixError.bad_json("Each device must have an app_id and a pushkey")
    return devices


def _place(url: str) -> str:
    """Host and port of an address, however they are written; a scheme's usual port is none."""
    parts = urlsplit(url)
    usual = ":443" if parts.scheme == "https" else ":80"
    return parts.netloc.lower().removesuffix(usual)
