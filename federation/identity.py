"""Identity servers: whose address is whose. Implements the port `IdentityServers`.

Owns the requests to them. A stranger names these servers, so they are asked through the client that
goes to public addresses only. What a user may have published is decided by the caller.
spec: identity-service-api#establishing-associations
"""

import hashlib

from federation.authorization import authorise
from homeserver.errors import RemoteError, Unreachable
from homeserver.http.outbound import Outbound, OutboundFailed
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Malformed
from homeserver.matrix.ids import is_server_name
from homeserver.matrix.sign import SigningKey

SECONDS = 20.0
MAX_BYTES = 65_536
_V2 = "/_matrix/identity/v2"


class Identity:
    """See the module."""

    def __init__(self, outbound: Outbound, server_name: str, key: SigningKey) -> None:
        self._outbound = outbound
        self._server_name = server_name
        self._key = key

    async def bind(
        self, server: str, access_token: str, credentials: JsonObject, user_id: str
    ) -> JsonObject:
        """See the port."""
        body = {
            "client_secret": credentials.get("client_secret"),
            "mxid": user_id,
            "sid": credentials.get("sid"),
        }
        return await self._ask("POST", server, f"{_V2}/3pid/bind", _bearer(access_token), body)

    async def find(self, server: str, access_token: str, medium: str, address: str) -> str | None:
        """See the port. The address itself is said only where the server wants no hash of it.

        spec: identity-service-api#association-lookup
        """
        headers = _bearer(access_token)
        details = await self._ask("GET", server, f"{_V2}/hash_details", headers)
        pepper, algorithms = details.get("lookup_pepper"), details.get("algorithms")
        if not isinstance(pepper, str) or not isinstance(algorithms, list):
            raise RemoteError(server, 200, message="its hash details can't be used")
        if "sha256" in algorithms:
            algorithm = "sha256"
            digest = hashlib.sha256(f"{address} {medium} {pepper}".encode()).digest()
            wanted = canonical.encode_unpadded_urlsafe(digest)
        elif "none" in algorithms:
            algorithm, wanted = "none", f"{address} {medium}"
        else:
            raise RemoteError(server, 200, message="it has no way of looking up that is known")
        body: JsonObject = {"algorithm": algorithm, "pepper": pepper, "addresses": [wanted]}
        answer = await self._ask("POST", server, f"{_V2}/lookup", headers, body)
        mappings = answer.get("mappings")
        found = mappings.get(wanted) if isinstance(mappings, dict) else None
        return found if isinstance(found, str) else None

    async def store_invite(self, server: str, access_token: str, invite: JsonObject) -> JsonObject:
        """See the port. spec: identity-service-api#invitation-storage"""
        target = f"{_V2}/store-invite"
        return await self._ask("POST", server, target, _bearer(access_token), invite)

    async def unbind(self, server: str, medium: str, address: str, user_id: str) -> None:
        """See the port."""
        target = f"{_V2}/3pid/unbind"
        body = {"mxid": user_id, "threepid": {"medium": medium, "address": address}}
        signed = authorise("POST", target, self._server_name, server, body, self._key)
        try:
            await self._ask("POST", server, target, {"Authorization": str(signed)}, body)
        except RemoteError as error:
            # Servers that can't forget say so; one that knows nothing has nothing to forget.
            if error.status != 404 or error.errcode == "M_UNRECOGNIZED":
                raise

    async def _ask(
        self,
        method: str,
        server: str,
        target: str,
        headers: dict[str, str],
        body: JsonObject | None = None,
    ) -> JsonObject:
        if not is_server_name(server):
            raise Unreachable(server, "this is no server name")
        try:
            answer = await self._outbound.fetch(
                method,
                f"https://{server}{target}",
                headers={**headers, "Content-Type": "application/json"},
                body=canonical.encode(body) if body is not None else None,
                seconds=SECONDS,
                max_bytes=MAX_BYTES,
            )
        except OutboundFailed as error:
            raise Unreachable(server, str(error)) from None
        try:
            found = canonical.decode_object(answer.body)
        except Malformed as error:
            raise RemoteError(server, answer.status, message=str(error)) from None
        if not 200 <= answer.status < 300:
            errcode, message = found.get("errcode"), found.get("error")
            raise RemoteError(
                server,
                answer.status,
                errcode if isinstance(errcode, str) else "",
                message if isinstance(message, str) else "",
                body=found,
            )
        return found


def _bearer(access_token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {access_token}"}
