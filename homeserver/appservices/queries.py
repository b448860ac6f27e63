"""What this server asks application services on behalf of its users.

Owns the questions for users and aliases that may be made on demand, and those about third-party
networks, whose answers are kept for a while. Each service has bounded time to answer.
spec: application-service-api#querying, application-service-api#third-party-networks
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from homeserver.appservices.client import ServiceClient, ServiceFailed
from homeserver.appservices.registration import Registration
from homeserver.appservices.registry import Registry
from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.runtime.clock import Clock

SECONDS = 20.0
KEPT_SECONDS = 300.0
_TRIES = 2


class Queries:
    """See the module."""

    def __init__(self, registry: Registry, client: ServiceClient, clock: Clock) -> None:
        self._registry = registry
        self._client = client
        self._clock = clock
        self._protocols: dict[str, tuple[float, JsonObject | None]] = {}
        self._asking: dict[str, asyncio.Task[bool]] = {}

    async def makes_user(self, user_id: str) -> bool:
        """Ask the services in whose namespaces the user is; whether one of them has made it."""
        services = [service for service in self._registry.all() if service.users.has(user_id)]
        return await self._shared(services, f"/users/{quote(user_id, safe='')}")

    async def makes_alias(self, alias: str) -> bool:
        """Ask the services in whose namespaces the alias is; whether one of them has made it.

        Raises `MatrixError` 408 when one did not answer.
        """
        services = [service for service in self._registry.all() if service.aliases.has(alias)]
        return await self._shared(services, f"/rooms/{quote(alias, safe='')}")

    async def protocols(self) -> dict[str, JsonObject]:
        """Every third-party protocol with what the services say of it."""
        names = sorted({name for service in self._registry.all() for name in service.protocols})
        found = await asyncio.gather(*(self._protocol(name) for name in names))
        return {name: one for name, one in zip(names, found, strict=True) if one is not None}

    async def protocol(self, name: str) -> JsonObject:
        """One protocol. Raises `MatrixError` M_NOT_FOUND."""
        found = await self._protocol(name)
        if found is None:
            raise MatrixError.not_found(f"There is no protocol {name}")
        return found

    async def search(
        self, kind: str, protocol: str | None, fields: Mapping[str, str]
    ) -> list[JsonObject]:
        """Third-party things of a `kind` ("user" or "location"): of a protocol by its fields, of
        any by a Matrix user id or alias in `fields`. Services that fail are passed over.
        """
        services = [
            service
            for service in self._registry.all()
            if (protocol in service.protocols if protocol is not None else service.protocols)
        ]
        path = f"/thirdparty/{kind}"
        if protocol is not None:
            path += "/" + quote(protocol, safe="")
            if not services:
                raise MatrixError.not_found(f"There is no protocol {protocol}")
        answers = await asyncio.gather(*(self._found(one, path, fields) for one in services))
        return [found for answer in answers for found in answer]

    async def _shared(self, services: Sequence[Registration], path: str) -> bool:
        """One question at a time for a path: others who want to know wait for its answer."""
        if not services:
            return False
        task = self._asking.get(path)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._any(services, path))
            self._asking[path] = task
            task.add_done_callback(lambda _: self._asking.pop(path, None))
        return await asyncio.shield(task)

    async def _any(self, services: Sequence[Registration], path: str) -> bool:
        silent = False
        for service in services:
            if service.url is None:
                continue
            for _ in range(_TRIES):
                try:
                    await self._client.request(
                        service, "GET", "/_matrix/app/v1" + path, path, seconds=SECONDS
                    )
                    return True
                except ServiceFailed as failed:
                    if failed.status is not None and failed.status < 500:
                        break
                    silent = failed.status is None
        if silent:
            raise MatrixError("M_UNKNOWN", "The application service does not answer", 408)
        return False

    async def _protocol(self, name: str) -> JsonObject | None:
        now = self._clock.monotonic()
        kept = self._protocols.get(name)
        if kept is not None and kept[0] > now:
            return kept[1]
        services = [service for service in self._registry.all() if name in service.protocols]
        path = f"/thirdparty/protocol/{quote(name, safe='')}"
        answers = await asyncio.gather(*(self._json(service, path, {}) for service in services))
        found: JsonObject | None = None
        for service, answer in zip(services, answers, strict=True):
            if not isinstance(answer, dict) or not isinstance(answer.get("instances"), list):
                continue
            if found is None:
                found = {**answer, "instances": []}
            for instance in answer["instances"]:
                if isinstance(instance, dict):
                    named = f"{service.id}|{instance.get('network_id', '')}"
                    found["instances"].append({**instance, "instance_id": named})
        if services:
            self._protocols[name] = (now + KEPT_SECONDS, found)
        return found

    async def _found(
        self, service: Registration, path: str, fields: Mapping[str, str]
    ) -> list[JsonObject]:
        answer = await self._json(service, path, fields)
        listed = answer if isinstance(answer, list) else []
        return [one for one in listed if isinstance(one, dict)]

    async def _json(self, service: Registration, path: str, fields: Mapping[str, str]) -> Any:
        try:
            return await self._client.request(
                service,
                "GET",
                "/_matrix/app/v1" + path,
                "/_matrix/app/unstable" + path,
                query=fields,
                seconds=SECONDS,
            )
        except ServiceFailed:
            return None
