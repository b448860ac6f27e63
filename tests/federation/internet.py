"""A small internet on the loopback address: names, certificates, web servers, homeservers.

Owns a private certificate authority, TLS servers that remember what they were asked and by which
name (SNI), and this project's federation parts connected to all of it. Ports 443 and 8448 of that
internet are two free ports, because tests are not root and run side by side.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme
from aiohttp import web

from federation.outbound_lists import OwnLists
from federation.wiring import Federation
from homeserver.config import Config
from homeserver.matrix.canonical import JsonObject, encode, encode_unpadded
from homeserver.matrix.sign import SigningKey, sign_json
from homeserver.runtime.clock import Clock, FakeClock
from homeserver.streams.commit import CommitQueue
from homeserver.streams.numbers import Names
from homeserver.users.public_keys import PublicKeys
from storage.engine import Database
from tests.federation.name_server import NameServer

OURS = "ours.example"
DAY = 86_400_000
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass
class Seen:
    """One request as it arrived; `sni` is None when the client gave no name."""

    method: str
    target: str
    host: str
    sni: str | None
    headers: Any
    body: bytes


class TlsServer:
    """A server with a certificate for each of its names, chosen by SNI; the first without."""

    def __init__(self, authority: trustme.CA, *names: str) -> None:
        self.seen: list[Seen] = []
        self.handler: Handler = nothing_here
        self._names: dict[Any, str | None] = {}
        self._transports: set[Any] = set()
        self._contexts = {name: _context(authority, name) for name in names}
        self._runner: web.ServerRunner | None = None
        self.port = 0

    async def start(self, port: int = 0) -> "TlsServer":
        first = next(iter(self._contexts.values()))
        first.sni_callback = self._choose
        server = web.Server(self._handle, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=first).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        for transport in self._transports:
            transport.abort()  # a peer that does not answer the farewell would be waited for
        self._transports.clear()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _choose(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        self._names[id(connection)] = name
        if name in self._contexts:
            connection.context = self._contexts[name]

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        self._transports.add(request.transport)
        connection = request.transport.get_extra_info("ssl_object")
        sni = self._names.get(id(connection))
        body = await request.read()
        host = request.headers.get("Host", "")
        self.seen.append(Seen(request.method, request.raw_path, host, sni, request.headers, body))
        return await self.handler(request)


async def nothing_here(request: web.BaseRequest) -> web.StreamResponse:
    return web.json_response({"errcode": "M_UNRECOGNIZED", "error": "Nothing here"}, status=404)


def answers(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Handler:
    """A handler that gives one answer: JSON, text or bytes."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if isinstance(value, bytes):
            return web.Response(body=value, status=status, headers=headers)
        return web.json_response(value, status=status, headers=headers)

    return handle


def _context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


class Peer:
    """The keys of another homeserver, and what it publishes of them."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.clock = clock
        self.key = SigningKey.generate()
        self.old: dict[str, JsonObject] = {}
        self.life_ms = DAY

    def rotate(self) -> SigningKey:
        """Take a new key; the old one is published as expired now. Returns the old one."""
        before = self.key
        self.old[before.key_id] = {
            "key": encode_unpadded(before.public_key),
            "expired_ts": self.clock.now_ms(),
        }
        self.key = SigningKey.generate()
        return before

    def published(self, **changed: Any) -> JsonObject:
        """The answer to /_matrix/key/v2/server, with keys of it changed before it is signed."""
        answer: JsonObject = {
            "server_name": self.name,
            "verify_keys": {self.key.key_id: {"key": encode_unpadded(self.key.public_key)}},
            "old_verify_keys": self.old,
            "valid_until_ts": self.clock.now_ms() + self.life_ms,
            **changed,
        }
        return sign_json(answer, self.name, self.key)

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """A handler that publishes the keys."""
        if request.path != "/_matrix/key/v2/server":
            return await nothing_here(request)
        return web.Response(body=encode(self.published()), content_type="application/json")


@dataclass
class Internet:
    """Everything; `names` is its DNS, `web` and `matrix` listen on its ports 443 and 8448."""

    authority: trustme.CA
    folder: Path
    database: Database
    commits: CommitQueue
    clock: FakeClock
    names: NameServer
    servers: list[TlsServer] = field(default_factory=list)
    parts: list[Federation] = field(default_factory=list)
    web_port: int = 0
    matrix_port: int = 0

    async def server(self, *names: str, port: int = 0) -> TlsServer:
        """A TLS server for these names, on a port of its own unless one is given."""
        started = await TlsServer(self.authority, *names).start(port)
        self.servers.append(started)
        return started

    async def web(self, *names: str) -> TlsServer:
        """A server on port 443."""
        started = await self.server(*names, port=self.web_port)
        self.web_port = started.port
        return started

    async def matrix(self, *names: str) -> TlsServer:
        """A server on port 8448."""
        started = await self.server(*names, port=self.matrix_port)
        self.matrix_port = started.port
        return started

    async def federation(self, **options: Any) -> Federation:
        """This project's side, with these options of [federation] changed."""
        bundle = self.folder / "authority.pem"
        self.authority.cert_pem.write_to_path(str(bundle))
        section = {
            "ca_file": str(bundle),
            "allow_networks": ["127.0.0.0/8"],
            "dns": [self.names.address],
            "connect_seconds": 2,
            **options,
        }
        document = {"server": {"name": OURS}, "federation": section}
        config = Config.read(document, "the test", self.folder, {})
        built = await Federation.build(
            config,
            [SigningKey.generate()],
            self.database,
            self.commits,
            self.clock,
            own_lists(self.database, OURS),
            web_port=self.web_port or _refusing_port(),
            default_port=self.matrix_port or _refusing_port(),
        )
        self.parts.append(built)
        return built

    def host(self, *names: str) -> None:
        """Let these names stand for the loopback address."""
        for name in names:
            self.names.put(name, "A", "127.0.0.1")


def own_lists(database: Database, server_name: str) -> OwnLists:
    """What is told of devices, read from a database."""
    names = Names(database)
    return OwnLists(database, names, PublicKeys(database, names, server_name))


def _refusing_port() -> int:
    """A port on which nobody listens: of the discard service, which no test machine has."""
    return 9


@asynccontextmanager
async def internet(
    authority: trustme.CA, folder: Path, database: Database, clock: FakeClock
) -> AsyncIterator[Internet]:
    """An internet without names and servers; all that is added ends with it."""

    class NoMetrics:
        def committed(self, items: int, seconds: float) -> None: ...

    commits = CommitQueue(database, clock, NoMetrics(), lambda pos: None, lambda pos: None)
    commits.start()
    names = NameServer()
    await names.start()
    made = Internet(authority, folder, database, commits, clock, names)
    try:
        yield made
    finally:
        for part in made.parts:
            await part.close()
        await asyncio.gather(*(server.stop() for server in made.servers))
        await names.stop()
        await commits.close()
