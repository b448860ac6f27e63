"""A server with small endpoints on a real socket, and a plain client that sends exact bytes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
import uvloop

from homeserver.errors import MatrixError
from homeserver.http.dispatch import Dispatcher
from homeserver.http.endpoint import Request
from homeserver.http.proxies import Proxies
from homeserver.http.server import Binding, Server
from homeserver.http.service import health_endpoints, metrics_endpoints
from homeserver.runtime.clock import SystemClock
from homeserver.runtime.health import Health
from homeserver.runtime.limits import RateLimits
from homeserver.runtime.metrics import Metrics
from homeserver.users.sessions import Session
from tests.http import endpoints

if TYPE_CHECKING:
    from homeserver.services import Services

MAX_BODY = 65_536


def session(user_id: str, admin: bool = False, guest: bool = False) -> Session:
    return Session(user_id, 1, "DEVICE", 1, admin, guest, b"")


SESSIONS = {
    "alice": session("@alice:test"),
    "admin": session("@admin:test", admin=True),
    "guest": session("@guest:test", guest=True),
}


class Tokens:
    """Knows three tokens; alice's is in memory, the others have to be looked up."""

    def cached(self, token: str) -> Session | None:
        return SESSIONS[token] if token == "alice" else None

    async def authenticate(self, token: str, request: Request) -> Session:
        await asyncio.sleep(0)
        if token not in SESSIONS:
            raise MatrixError("M_UNKNOWN_TOKEN", "Unknown token", 401)
        return SESSIONS[token]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def errcode(self) -> str:
        return cast("str", self.json["errcode"])


@dataclass
class Connection:
    """One connection on which requests are written byte by byte."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self, head_only: bool = False) -> Answer:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[1:]:
            if line:
                name, _, value = line.partition(": ")
                headers[name.lower()] = value
        length = 0 if head_only else int(headers.get("content-length", 0))
        return Answer(int(lines[0].split()[1]), headers, await self.reader.readexactly(length))

    async def request(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        token: str | None = "alice",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        lines = [f"{method} {target} HTTP/1.1", "Host: test"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if token is not None:
            lines.append(f"Authorization: Bearer {token}")
        if body:
            lines.append(f"Content-Length: {len(body)}")
        await self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        return await self.receive(head_only=method == "HEAD")

    async def at_end(self) -> bool:
        return await self.reader.read(1) == b""


Connect = Callable[[], Awaitable[Connection]]


@dataclass
class Edge:
    """The server under test."""

    server: Server
    health: Health
    metrics: Metrics
    connections: list[Connection] = field(default_factory=list)

    async def connect(self) -> Connection:
        host, _, port = self.server.addresses[0].rpartition("//")[2].rpartition(":")
        connection = Connection(*await asyncio.open_connection(host, int(port)))
        self.connections.append(connection)
        return connection

    async def request(self, method: str, target: str, body: bytes = b"", **more: Any) -> Answer:
        return await (await self.connect()).request(method, target, body, **more)


@pytest.fixture
def trusted_proxies() -> list[str]:
    """Overridden by tests that stand behind a proxy."""
    return []


@asynccontextmanager
async def edge_of(trusted_proxies: list[str]) -> AsyncIterator[Edge]:
    """A server with the small endpoints while it runs."""
    health, metrics = Health(), Metrics()
    proxies, limits = Proxies(trusted_proxies), RateLimits(False, {}, SystemClock())
    server = Server(
        [Binding("127.0.0.1", 0, ("client", "metrics"))],
        {
            "client": endpoints.declared(),
            "health": health_endpoints(health),
            "metrics": metrics_endpoints(metrics),
        },
        lambda router: Dispatcher(
            router, cast("Services", None), Tokens(), metrics, proxies, limits, MAX_BODY
        ),
        health,
    )
    await server.start()
    health.started = True
    running = Edge(server, health, metrics)
    yield running
    for connection in running.connections:
        connection.writer.close()
    await server.stop()


@pytest.fixture
async def edge(trusted_proxies: list[str]) -> AsyncIterator[Edge]:
    async with edge_of(trusted_proxies) as running:
        yield running


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Python's own loop, and the one that the server runs on."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
