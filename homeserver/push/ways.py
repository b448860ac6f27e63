"""Which way leads to a pusher.

Owns the choice by what is stored of it; each way is in a module of its own.
"""

from homeserver.matrix.canonical import decode_object
from homeserver.push.gateway import ByGateway, Way


class Ways:
    """See the module."""

    def of(self, app_id: str, pushkey: str, created_ts: int, json: bytes) -> Way:
        """The way to a pusher that is told over HTTP."""
        return ByGateway(app_id, pushkey, created_ts, decode_object(json)["data"])
