"""A bridge: an HTTP server with a registration, on a server that knows it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import pytest
from aiohttp import web

from tests.serving import CLIENT, Reply, Running

AS_TOKEN = "the token of the service"
HS_TOKEN = "the token of the server"


@dataclass
class Bridge:
    """What arrives, `older` by the paths of before version 1.

    `fail` is the status of the answers to transactions, 200 if all is well.
    """

    server: Running
    url: str = ""
    fail: int = 200
    lose_answers: bool = False
    old_paths: bool = False
    transactions: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    tries: int = 0
    asked: list[str] = field(default_factory=list)
    older: list[str] = field(default_factory=list)
    pings: list[Any] = field(default_factory=list)
    makes: Callable[[str], Any] | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def registration(self, **changes: Any) -> str:
        given: dict[str, Any] = {
            "id": "bridge",
            "url": self.url,
            "as_token": AS_TOKEN,
            "hs_token": HS_TOKEN,
            "sender_localpart": "_bridge_bot",
            "namespaces": {
                "users": [{"exclusive": True, "regex": "@_bridge_.*"}],
                "aliases": [{"exclusive": True, "regex": "#_bridge_.*"}],
                "rooms": [],
            },
            "protocols": ["irc"],
            "receive_ephemeral": True,
            "rate_limited": False,
        }
        return json.dumps({**given, **changes})

    async def call(self, method: str, path: str, user_id: str | None = None, **more: Any) -> Reply:
        """A request of the service, as one of its users."""
        query = {**more.pop("query", {}), **({"user_id": user_id} if user_id else {})}
        path = path if path.startswith("/_") else CLIENT + path
        return await self.server.request(method, path, token=AS_TOKEN, query=query, **more)

    async def register(self, localpart: str) -> str:
        body = {"type": "m.login.application_service", "username": localpart, "inhibit_login": True}
        made = await self.call("POST", "/register", body=body)
        assert made.status == 200, made.body
        return str(made.body["user_id"])

    def events(self) -> list[dict[str, Any]]:
        return [event for _, body in self.transactions for event in body["events"]]

    def bodies(self) -> list[str]:
        return [event["content"]["body"] for event in self.events() if "body" in event["content"]]

    async def until(self, enough: Callable[[], bool]) -> None:
        """Wait for transactions until `enough()`."""
        async with asyncio.timeout(30):
            while not enough():
                self.arrived.clear()
                await self.arrived.wait()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = unquote(request.raw_path)
        if request.headers.get("Authorization") != f"Bearer {HS_TOKEN}":
            return web.json_response({"errcode": "M_FORBIDDEN", "error": "no"}, status=403)
        if self.old_paths and path.startswith("/_matrix/app/v1"):
            return web.json_response({"errcode": "M_UNRECOGNIZED", "error": "old"}, status=404)
        if not path.startswith("/_matrix/app/v1"):
            self.older.append(path)
        path = path.removeprefix("/_matrix/app/v1")
        if path.startswith("/transactions/"):
            body = await request.json()
            self.tries += 1
            if self.fail == 200:
                self.transactions.append((path.removeprefix("/transactions/"), body))
            self.arrived.set()
            if self.lose_answers and request.transport is not None:
                request.transport.abort()
            return web.json_response({}, status=self.fail)
        if path == "/ping":
            self.pings.append(await request.json())
            return web.json_response({}, status=self.fail)
        self.asked.append(path)
        self.arrived.set()
        if path.startswith("/thirdparty/protocol/irc"):
            instance = {"network_id": "libera", "desc": "Libera", "fields": {}}
            return web.json_response({"user_fields": [], "instances": [instance]})
        if path.startswith("/thirdparty/"):
            return web.json_response([{"protocol": "irc", "fields": {}, "alias": "#_bridge_a:b"}])
        made = await self.makes(path) if self.makes is not None else False
        if made:
            return web.json_response({})
        return web.json_response({"errcode": "M_NOT_FOUND", "error": "no"}, status=404)


@pytest.fixture
async def bridge(server: Running) -> AsyncIterator[Bridge]:
    """A bridge that the server knows."""
    made = Bridge(server)
    runner = web.ServerRunner(web.Server(made.handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    await server.app.services.appservices.add(made.registration())
    yield made
    await runner.cleanup()
