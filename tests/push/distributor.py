"""A push server of UnifiedPush, as ntfy is: it remembers what its endpoints were sent."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Sent:
    """One request to an endpoint."""

    endpoint: str
    headers: Any
    body: bytes

    @property
    def notification(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.body)["notification"]
        return said


@dataclass
class Distributor:
    """`status` is what it answers with, `answers` what it does so for single endpoints.

    With `most` bytes and less it is content.
    """

    url: str = ""
    status: int = 201
    most: int = 4_096
    answers: dict[str, int] = field(default_factory=dict)
    location: str = ""
    endless: bool = False
    tries: int = 0
    sent: list[Sent] = field(default_factory=list)

    def endpoint(self, name: str = "up1") -> str:
        return f"{self.url}/{name}?up=1"

    @property
    def events(self) -> list[str]:
        said = [one.notification for one in self.sent]
        return [one["event_id"] for one in said if "event_id" in one]

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.tries += 1
        assert request.method == "POST"
        body = await request.read()
        status = self.answers.get(request.path.strip("/"), self.status)
        if len(body) > self.most:
            return web.Response(status=413)
        if self.endless:
            answer = web.StreamResponse(status=status)
            await answer.prepare(request)
            while True:
                await answer.write(b"x" * 65_536)
        if status // 100 == 2:
            self.sent.append(Sent(str(request.rel_url), request.headers, body))
        headers = {"Location": self.location} if self.location else {"TTL": "0"}
        return web.Response(status=status, headers=headers)


@asynccontextmanager
async def distributor(address: str = "127.0.0.1") -> AsyncIterator[Distributor]:
    """One that listens while it is needed."""
    made = Distributor()
    runner = web.ServerRunner(web.Server(made.handle))
    await runner.setup()
    await web.TCPSite(runner, address, 0).start()
    made.url = f"http://{address}:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()
