"""Speaking to push gateways.

Owns the body of a notification and the request that brings it to its gateway, through the one safe
client. When it is tried again is decided in `queues.py`.
spec: push-gateway-api#post_matrixpushv1notify
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from homeserver.http.outbound import Outbound, OutboundFailed
from homeserver.matrix.canonical import JsonObject, decode_object, encode
from homeserver.matrix.errors import Malformed
from storage.schema import PusherRow

_SECONDS = 20.0
_MAX_ANSWER = 65_536
_PUSHERS = 5_000
"""Of so many pushers is remembered how their notifications begin."""
_HEADERS = {"Content-Type": "application/json"}
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

    @cached_property
    def by_id(self) -> bytes:
        """The members of a notification that say no more than which event it is, as JSON."""
        prio = "high" if self.urgent else "low"
        return _members({"event_id": self.event_id, "room_id": self.room_id, "prio": prio})

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


class Gateway:
    """See the module."""

    def __init__(self, outbound: Outbound) -> None:
        self._outbound = outbound

    async def push(self, target: "Target", notice: Notice | None, unread: int) -> bool:
        """Notify; without a `notice` only the badge changes. False: the pusher's key is no more.

        Raises `GatewayFailed`.
        """
        try:
            answer = await self._outbound.fetch(
                "POST",
                target.url,
                headers=_HEADERS,
                body=_body(target, notice, unread),
                seconds=_SECONDS,
                max_bytes=_MAX_ANSWER,
            )
        except OutboundFailed as error:
            raise GatewayFailed(str(error)) from None
        if answer.status != 200:
            raise GatewayFailed(f"the gateway answered with status {answer.status}")
        try:
            rejected = decode_object(answer.body).get("rejected")
        except Malformed:
            raise GatewayFailed("the gateway's answer is not JSON") from None
        return not (isinstance(rejected, list) and target.row.pushkey in rejected)


class Target:
    """A pusher over HTTP: where its notifications go, and what it wants of them.

    `gateway` is what all pushers of one gateway have in common, `device` the members of the
    notified device, as JSON.
    """

    __slots__ = ("device", "gateway", "ids_only", "row", "url", "wants_badge")

    def __init__(self, row: PusherRow) -> None:
        self.row = row
        said = _said(row.app_id, row.pushkey, row.created_ts, row.json)
        self.url, self.gateway, self.device, self.ids_only, self.wants_badge = said


class _Said(NamedTuple):
    """What a pusher says of itself."""

    url: str
    gateway: str
    device: bytes
    ids_only: bool
    wants_badge: bool


@lru_cache(maxsize=_PUSHERS)
def _said(app_id: str, pushkey: str, created_ts: int, json: str) -> _Said:
    data: JsonObject = decode_object(json)["data"]
    url: str = data.pop("url")
    device: JsonObject = {
        "app_id": app_id,
        "pushkey": pushkey,
        "pushkey_ts": created_ts // 1_000,
        "data": data,
    }
    return _Said(
        url,
        url.partition("://")[2].partition("/")[0],
        _members(device),
        data.get("format") == "event_id_only",
        not any(data.get(name) is True for name in _NO_BADGE),
    )


def _body(target: Target, notice: Notice | None, unread: int) -> bytes:
    """A notification as it is sent: what is the same for many was encoded once."""
    device, said = target.device, b""
    if notice is not None:
        said = notice.by_id + b","
        if not target.ids_only:
            said = notice.whole + b","
            device += notice.of_device
    if target.wants_badge:
        said += b'"counts":{"unread":%d},' % unread
    return b'{"notification":{%b"devices":[{%b}]}}' % (said, device)


def _members(value: JsonObject) -> bytes:
    return encode(value)[1:-1]
