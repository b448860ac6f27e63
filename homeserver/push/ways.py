"""Which way leads to a pusher.

Owns the choice by what is stored of it; each way is in a module of its own.
"""

from homeserver.matrix.canonical import decode_object
from homeserver.push.gateway import ByGateway, Way
from homeserver.push.unifiedpush import Endpoint, Endpoints
from homeserver.push.vapid import Vapid
from homeserver.push.webpush import KINDS, Subscription


class Ways:
    """See the module."""

    def __init__(self, endpoints: Endpoints, vapid: Vapid | None) -> None:
        self._endpoints = endpoints
        self._vapid = vapid

    def of(self, app_id: str, pushkey: str, created_ts: int, json: bytes) -> Way:
        """The way to a pusher that is told over HTTP."""
        told = decode_object(json)
        data = told["data"]
        if told["kind"] in KINDS:
            return Subscription(pushkey, data, self._vapid)
        if self._endpoints.serves(pushkey, data["url"]):
            return Endpoint(app_id, pushkey, created_ts, data)
        return ByGateway(app_id, pushkey, created_ts, data)
