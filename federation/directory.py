"""What other servers know of aliases, users and public rooms, for our users.

Implements the port `RemoteDirectory`. Answers are checked for their form and cut to their bounds;
a profile is kept for a short while, since clients ask for the same ones again and again.
spec: server-server-api#querying-for-information, server-server-api#public-room-directory
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence

from federation.handshake import client_error
from federation.requests import Query, Requests, path_of
from homeserver.errors import MatrixError, RemoteError, Unreachable
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Malformed
from homeserver.matrix.ids import is_room_id, is_server_name, server_of
from homeserver.runtime.clock import Clock

log = logging.getLogger(__name__)

SECONDS = 15.0
PROFILE_SECONDS = 60.0
MAX_PROFILES = 10_000
MAX_SERVERS = 50
MAX_BYTES = 1_048_576
_PROFILE_BYTES = 65_536


class RemoteDirectoryClient:
    """See the module."""

    def __init__(self, requests: Requests, clock: Clock) -> None:
        self._requests = requests
        self._clock = clock
        self._profiles: OrderedDict[str, tuple[float, JsonObject]] = OrderedDict()

    async def alias(self, alias: str) -> tuple[str, list[str]]:
        """See `RemoteDirectory`."""
        server = server_of(alias)
        answer = await self._get(server, "directory", {"room_alias": alias})
        room_id, listed = answer.get("room_id"), answer.get("servers")
        if not isinstance(room_id, str) or not is_room_id(room_id):
            raise MatrixError("M_UNKNOWN", f"{server} has given no room id", 502)
        servers = [
            one for one in (listed if isinstance(listed, list) else []) if isinstance(one, str)
        ]
        named = [one for one in dict.fromkeys([server, *servers]) if is_server_name(one)]
        return room_id, named[:MAX_SERVERS]

    async def profile(self, user_id: str, field: str | None = None) -> JsonObject:
        """See `RemoteDirectory`; the whole profile is asked for, and serves all its fields."""
        now = self._clock.monotonic()
        until, profile = self._profiles.get(user_id, (0.0, {}))
        if until <= now:
            answer = await self._get(server_of(user_id), "profile", {"user_id": user_id})
            try:
                canonical.check(answer, strict=False)
                if len(canonical.encode(answer)) > _PROFILE_BYTES:
                    raise Malformed("The profile is too long")
            except Malformed as error:
                raise MatrixError("M_UNKNOWN", f"The profile can't be used: {error}", 502) from None
            profile = answer
            self._profiles[user_id] = (now + PROFILE_SECONDS, profile)
            self._profiles.move_to_end(user_id)
            if len(self._profiles) > MAX_PROFILES:
                self._profiles.popitem(last=False)
        if field is None:
            return profile
        if field not in profile:
            raise MatrixError.not_found(f"The profile has no {field}")
        return {field: profile[field]}

    async def public_rooms(self, server: str, query: JsonObject) -> JsonObject:
        """See `RemoteDirectory`."""
        path = path_of("federation/v1", "publicRooms")
        try:
            if query.keys() <= {"limit", "since"}:
                answer = await self._requests.request(
                    server, "GET", path, query=query, timeout=SECONDS, max_bytes=MAX_BYTES
                )
            else:
                answer = await self._requests.request(
                    server, "POST", path, body=query, timeout=SECONDS, max_bytes=MAX_BYTES
                )
        except (RemoteError, Unreachable) as error:
            raise client_error(error) from None
        if not isinstance(answer.get("chunk"), list):
            raise MatrixError("M_UNKNOWN", f"{server} has given no list of rooms", 502)
        return answer

    async def hierarchy(
        self, servers: Sequence[str], room_id: str, suggested_only: bool
    ) -> JsonObject | None:
        """See `RemoteDirectory`."""
        path = path_of("federation/v1", "hierarchy", room_id)
        query = {"suggested_only": "true" if suggested_only else "false"}
        for server in servers:
            try:
                answer = await self._requests.request(
                    server, "GET", path, query=query, timeout=SECONDS, max_bytes=MAX_BYTES
                )
            except (RemoteError, Unreachable) as error:
                log.info("no hierarchy of %s: %s", room_id, error)
                continue
            room = answer.get("room")
            if isinstance(room, dict) and room.get("room_id") == room_id:
                return answer
        return None

    async def _get(self, server: str, kind: str, query: Query) -> JsonObject:
        path = path_of("federation/v1", "query", kind)
        try:
            return await self._requests.request(
                server, "GET", path, query=query, timeout=SECONDS, max_bytes=MAX_BYTES
            )
        except (RemoteError, Unreachable) as error:
            raise client_error(error) from None
