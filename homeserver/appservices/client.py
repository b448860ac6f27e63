"""Asking an application service.

Owns the requests to the addresses that registrations name, with the older paths for services that
know no others. An administrator has named these addresses, so none is forbidden. It tries nothing
twice: that is the callers' matter.
spec: application-service-api#legacy-routes
"""

import asyncio
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from homeserver.appservices.registration import Registration
from homeserver.http.addresses import AddressRules
from homeserver.http.outbound import Outbound, OutboundFailed, tls_context
from homeserver.matrix.canonical import decode
from homeserver.matrix.errors import Malformed
from homeserver.runtime.clock import Clock

MAX_ANSWER = 4_194_304
_NEW_AGAIN_SECONDS = 3_600.0
_UNKNOWN_PATH = frozenset({404, 405, 501})


class ServiceFailed(Exception):
    """The service did not do what was asked; `status` is None where there was no answer."""

    def __init__(self, reason: str, status: int | None = None, body: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.body = body


class ServiceClient:
    """The one client for all services; built on a running loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._outbound = Outbound(_SystemNames(), AddressRules(()), tls_context())
        self._older: dict[str, float] = {}

    async def close(self) -> None:
        """Drop every connection."""
        await self._outbound.close()

    async def request(
        self,
        service: Registration,
        method: str,
        path: str,
        older: str | None = None,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        seconds: float = 30.0,
    ) -> Any:
        """The JSON that the service answers with; None for an answer that is none.

        `path` is below its URL and encoded; `older` is where services of before version 1.0 have
        the same. Raises `ServiceFailed`, also for a service without a URL.
        """
        now = self._clock.monotonic()
        if older is not None and self._older.get(service.id, 0.0) > now:
            return await self._ask(service, method, older, query, body, seconds)
        try:
            return await self._ask(service, method, path, query, body, seconds)
        except ServiceFailed as error:
            if older is None or not _unknown_path(error):
                raise
            answer = await self._ask(service, method, older, query, body, seconds)
            self._older[service.id] = now + _NEW_AGAIN_SECONDS
            return answer

    async def _ask(
        self,
        service: Registration,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes | None,
        seconds: float,
    ) -> Any:
        if service.url is None:
            raise ServiceFailed("the service has no url")
        headers = {"Authorization": f"Bearer {service.hs_token}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        url = service.url + path + (f"?{urlencode(query)}" if query else "")
        try:
            answer = await self._outbound.fetch(
                method, url, headers=headers, body=body, seconds=seconds, max_bytes=MAX_ANSWER
            )
        except OutboundFailed as error:
            raise ServiceFailed(str(error)) from None
        if not 200 <= answer.status < 300:
            text = answer.body[:2_000].decode(errors="replace")
            raise ServiceFailed(f"it answered {answer.status}", answer.status, text)
        try:
            return decode(answer.body)
        except Malformed:
            return None


def _unknown_path(error: ServiceFailed) -> bool:
    """Whether the service does not know the path: an error with a code of its own is an answer."""
    if error.status not in _UNKNOWN_PATH:
        return False
    try:
        answer = decode(error.body.encode())
    except Malformed:
        return True
    code = answer.get("errcode") if isinstance(answer, dict) else None
    return code in (None, "M_UNRECOGNIZED")


class _SystemNames:
    """The addresses that the system finds for a host: also those of its own network."""

    async def addresses(self, host: str) -> list[str]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))
