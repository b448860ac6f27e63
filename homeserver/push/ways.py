"""Which way leads to a pusher.

Owns the choice by what is stored of it; each way is in a module of its own.
"""

from homeserver.matrix.canonical import decode_object
from homeserver.push.gateway import ByGateway, Way
from homeserver.push.unifiedpush import Endpoint, Endpoints


class Ways:
    """See the module."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    def of(self, app_id: str, pushkey: str, created_ts: int, json: bytes) -> Way:
        """The way to a pusher that is told over HTTP."""
        data = decode_object(json)["data"]
        if self._endpoints.serves(pushkey, data["url"]):
            return Endpoint(app_id, pushkey, created_ts, data)
        return ByGateway(app_id, pushkey, created_ts, data)
