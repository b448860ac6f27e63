"""Speaking to push gateways.

Owns the body of a notification and the request that brings it to its gateway, through the one safe
client. When it is tried again is decided in `sending.py`.
spec: push-gateway-api#post_matrixpushv1notify
"""

from typing import NamedTuple

from homeserver.http.outbound import Outbound, OutboundFailed
from homeserver.matrix.canonical import JsonObject, decode_object, encode
from homeserver.matrix.errors import Malformed
from storage.schema import PusherRow

_SECONDS = 20.0
_MAX_ANSWER = 65_536


class GatewayFailed(Exception):
    """The gateway did not take a notification; the text says why."""


class Notice(NamedTuple):
    """An event for one user; `full` is what gateways get who want more than its id."""

    room_id: str
    event_id: str
    full: JsonObject
    tweaks: JsonObject
    urgent: bool


class Gateway:
    """See the module."""

    def __init__(self, outbound: Outbound) -> None:
        self._outbound = outbound

    async def push(self, row: PusherRow, notice: Notice | None, unread: int) -> bool:
        """Notify; without a `notice` only the badge changes. False: the pusher's key is no more.

        Raises `GatewayFailed`.
        """
        data: JsonObject = decode_object(row.json)["data"]
        notification = _notification(row, data, notice, unread)
        try:
            answer = await self._outbound.fetch(
                "POST",
                data["url"],
                headers={"Content-Type": "application/json"},
                body=encode({"notification": notification}),
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
        return not (isinstance(rejected, list) and row.pushkey in rejected)


def wants_badge(row: PusherRow) -> bool:
    """Whether the pusher is to be told of counts."""
    data = decode_object(row.json)["data"]
    return not any(
        data.get(name) is True
        for name in ("disable_badge_count", "org.matrix.msc4076.disable_badge_count")
    )


def _notification(
    row: PusherRow, data: JsonObject, notice: Notice | None, unread: int
) -> JsonObject:
    kept = {name: value for name, value in data.items() if name != "url"}
    device: JsonObject = {
        "app_id": row.app_id,
        "pushkey": row.pushkey,
        "pushkey_ts": row.created_ts // 1_000,
        "data": kept,
    }
    said: JsonObject = {"devices": [device]}
    if wants_badge(row):
        said["counts"] = {"unread": unread}
    if notice is None:
        return said
    said.update(
        event_id=notice.event_id,
        room_id=notice.room_id,
        prio="high" if notice.urgent else "low",
    )
    if data.get("format") != "event_id_only":
        said.update(notice.full)
        device["tweaks"] = notice.tweaks
    return said
