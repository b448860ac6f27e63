"""Speaking to push gateways.

Owns the body of a notification and the request that brings it to its gateway, through the one safe
client. When it is tried again is decided in `queues.py`.
spec: push-gateway-api#post_matrixpushv1notify
"""

from typing import NamedTuple

from homeserver.http.outbound import Outbound, OutboundFailed
from homeserver.matrix.canonical import JsonObject, decode_object, encode
from homeserver.matrix.errors import Malformed
from storage.schema import PusherRow

_SECONDS = 20.0
_MAX_ANSWER = 65_536
_HEADERS = {"Content-Type": "application/json"}
_NO_BADGE = ("disable_badge_count", "org.matrix.msc4076.disable_badge_count")


class GatewayFailed(Exception):
    """The gateway did not take a notification; the text says why."""


class Notice(NamedTuple):
    """An event for the users to whom it is the same; `full` is what is told beyond its id."""

    room_id: str
    event_id: str
    full: JsonObject
    tweaks: JsonObject
    urgent: bool


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
                body=encode({"notification": _notification(target, notice, unread)}),
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

    `gateway` is what all pushers of one gateway have in common.
    """

    __slots__ = ("data", "gateway", "ids_only", "row", "url", "wants_badge")

    def __init__(self, row: PusherRow) -> None:
        data: JsonObject = decode_object(row.json)["data"]
        self.row = row
        self.url: str = data.pop("url")
        self.gateway = self.url.partition("://")[2].partition("/")[0]
        self.data = data
        self.ids_only = data.get("format") == "event_id_only"
        self.wants_badge = not any(data.get(name) is True for name in _NO_BADGE)


def _notification(target: Target, notice: Notice | None, unread: int) -> JsonObject:
    device: JsonObject = {
        "app_id": target.row.app_id,
        "pushkey": target.row.pushkey,
        "pushkey_ts": target.row.created_ts // 1_000,
        "data": target.data,
    }
    said: JsonObject = {"devices": [device]}
    if target.wants_badge:
        said["counts"] = {"unread": unread}
    if notice is None:
        return said
    said["event_id"] = notice.event_id
    said["room_id"] = notice.room_id
    said["prio"] = "high" if notice.urgent else "low"
    if not target.ids_only:
        said.update(notice.full)
        device["tweaks"] = notice.tweaks
    return said
