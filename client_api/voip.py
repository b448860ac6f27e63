"""What clients need for calls: relays, and the servers of group calls.

spec: client-server-api#voice-over-ip
"""

import base64
import hashlib
import hmac
import time

from homeserver.config import Calls
from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.matrix.canonical import JsonObject


@endpoint(
    "GET /_matrix/client/v3/voip/turnServer",
    spec="client-server-api#get_matrixclientv3voipturnserver",
    auth=Client(),
)
async def get_turn_server(call: Call) -> JsonObject:
    """A name and a password for the relays; nothing where there are none."""
    calls = call.app.config.calls
    if not calls.turn_uris:
        return {}
    name, password = _credentials(calls, call.session.user_id, int(time.time()))
    return {
        "uris": list(calls.turn_uris),
        "username": name,
        "password": password,
        "ttl": calls.turn_seconds,
    }


@endpoint(
    "GET /_matrix/client/unstable/org.matrix.msc4143/rtc/transports",
    spec="client-server-api#voice-over-ip",
    auth=Client(),
)
async def get_transports(call: Call) -> JsonObject:
    """The servers that carry group calls (MSC4143)."""
    return {"rtc_transports": transports(call.app.config.calls)}


def transports(calls: Calls) -> list[JsonObject]:
    """The configured LiveKit services, as clients are told of them."""
    return [{"type": "livekit", "livekit_service_url": url} for url in calls.livekit_urls]


def _credentials(calls: Calls, user_id: str, now: int) -> tuple[str, str]:
    """A name that holds its own end and the password that follows from it, or the fixed ones."""
    if not calls.turn_secret:
        return calls.turn_username, calls.turn_password
    name = f"{now + calls.turn_seconds}:{user_id}"
    digest = hmac.new(calls.turn_secret.encode(), name.encode(), hashlib.sha1).digest()
    return name, base64.b64encode(digest).decode()
