"""A push gateway: an HTTP server that remembers what it was told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from tests.serving import Person, Running


@dataclass
class PushGateway:
    """`fail` is the status of its answers, 200 if all is well; `rejects` the keys that are gone.

    For the keys in `fail_for` it fails in any case; what has more bytes than `most` is too much.
    """

    server: Running
    url: str = ""
    fail: int = 200
    rejects: list[str] = field(default_factory=list)
    fail_for: set[str] = field(default_factory=set)
    most: int = 1_000_000
    tries: int = 0
    told: list[dict[str, Any]] = field(default_factory=list)

    async def serve(self) -> web.ServerRunner:
        """Begin to listen; whoever called ends it."""
        runner = web.ServerRunner(web.Server(self.handle))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/_matrix/push/v1/notify"
        return runner

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.tries += 1
        assert request.path == "/_matrix/push/v1/notify"
        if self.fail != 200:
            return web.json_response({}, status=self.fail)
        if len(await request.read()) > self.most:
            return web.json_response({}, status=413)
        said = (await request.json())["notification"]
        if said["devices"][0]["pushkey"] in self.fail_for:
            return web.json_response({}, status=502)
        self.told.append(said)
        return web.json_response({"rejected": self.rejects})

    async def register(self, person: Person, pushkey: str = "key", **changes: Any) -> None:
        """Set a pusher; `data` is added to its data."""
        body = {
            "app_id": "test.app",
            "pushkey": pushkey,
            "kind": "http",
            "app_display_name": "App",
            "device_display_name": "Device",
            "lang": "en",
            **changes,
        }
        body["data"] = {"url": self.url, **changes.get("data", {})}
        await person.ok("POST", "/pushers/set", body=body)

    async def until(self, enough: Callable[[], bool], seconds: float = 0) -> None:
        """Wait until `enough()`, while the clock goes on by `seconds` at each look."""
        async with asyncio.timeout(20):
            while not enough():
                await asyncio.sleep(0.005)
                if seconds:
                    await self.server.clock.advance(seconds)

    async def quiet(self) -> None:
        """Long enough for anything on its way to have come."""
        for _ in range(20):
            await asyncio.sleep(0.005)

    async def noticed(self) -> None:
        """Wait until everything that has happened was looked at for pushers."""
        await self.until(lambda: not self.server.app.services.push.sender.behind)

    def events(self) -> list[str]:
        return [told["event_id"] for told in self.told if "event_id" in told]


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"federation": {"allow_networks": ["127.0.0.0/8"]}}


@pytest.fixture
async def gateway(server: Running) -> AsyncIterator[PushGateway]:
    made = PushGateway(server)
    runner = await made.serve()
    yield made
    await runner.cleanup()
