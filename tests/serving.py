"""A whole server in the test's own loop, on both databases, spoken to over real sockets.

Owns the fixtures `settings` (what a test wants changed in the configuration), `server` and the
small `Person` client. The clock is fake: time stands still unless a test advances it, so a long
poll waits for news, never for the wall clock.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import aiohttp
import pytest
from psycopg.conninfo import conninfo_to_dict

from homeserver.app import App
from homeserver.config import Config
from homeserver.runtime.clock import FakeClock
from homeserver.users.accounts import NewAccount
from homeserver.users.sessions import DeviceRequest
from storage.check import differences
from storage.engine import DatabaseSettings, open_database

SERVER_NAME = "test.example"
PASSWORD = "correct horse"
CLIENT = "/_matrix/client/v3"
_txns = itertools.count(1)


@dataclass
class Reply:
    """Status and JSON of one answer."""

    status: int
    body: Any
    headers: Any

    @property
    def errcode(self) -> str | None:
        return self.body.get("errcode") if isinstance(self.body, dict) else None


@dataclass
class Running:
    """A started server; `restart` stops it in order and starts it on the same data."""

    app: App
    config: Config
    clock: FakeClock
    http: aiohttp.ClientSession
    people: list["Person"] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.app.addresses[0]

    async def request(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        body: Any = None,
        data: bytes | None = None,
        query: dict[str, Any] | None = None,
    ) -> Reply:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self.http.request(
            method,
            self.url + path,
            headers=headers,
            json=body,
            data=data,
            params={key: str(value) for key, value in (query or {}).items()},
        ) as answer:
            raw = await answer.read()
            is_json = "json" in answer.headers.get("Content-Type", "")
            return Reply(answer.status, await answer.json() if is_json else raw, answer.headers)

    async def person(self, localpart: str, *, admin: bool = False) -> "Person":
        """A new account with one session."""
        made = await self.app.services.accounts.create(
            NewAccount(localpart, PASSWORD, admin=admin, device=DeviceRequest())
        )
        assert made.session is not None
        return Person(self, made.user_id, made.session.access_token, made.session.device_id)

    async def parked(self, count: int = 1) -> None:
        """Wait until so many long polls are parked; fails when that never comes."""
        for _ in range(100_000):
            if self.app.notifier.waiting >= count:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"only {self.app.notifier.waiting} of {count} requests are waiting")

    async def restart(self) -> None:
        await self.app.stop()
        self.app = App(self.config, self.clock)
        await self.app.start()


class Answers(Protocol):
    """A server that a client can ask: one in the test's loop, or a process."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        body: Any = None,
        data: bytes | None = None,
        query: dict[str, Any] | None = None,
    ) -> Reply:
        """A request of a client."""


@dataclass
class Person:
    """A user's client: raw requests, and the few calls that most tests make."""

    server: Answers
    user_id: str
    token: str
    device_id: str
    since: str | None = None

    async def raw(self, method: str, path: str, **options: Any) -> Reply:
        """A request with this person's token; paths are below /_matrix/client/v3 unless whole."""
        if not path.startswith("/_"):
            path = CLIENT + path
        return await self.server.request(method, path, token=self.token, **options)

    async def ok(self, method: str, path: str, **options: Any) -> Any:
        """The body of a request that must succeed."""
        reply = await self.raw(method, path, **options)
        assert reply.status == 200, (method, path, reply.status, reply.body)
        return reply.body

    async def refused(self, errcode: str, method: str, path: str, **options: Any) -> Reply:
        """The answer to a request that must fail with this errcode."""
        reply = await self.raw(method, path, **options)
        assert reply.status >= 400, (method, path, reply.status, reply.body)
        assert reply.errcode == errcode, (method, path, reply.status, reply.body)
        return reply

    async def create_room(self, **options: Any) -> str:
        return str((await self.ok("POST", "/createRoom", body=options))["room_id"])

    async def join(self, room_id: str) -> None:
        await self.ok("POST", f"/rooms/{quote(room_id, safe='')}/join", body={})

    async def say(self, room_id: str, text: str, txn_id: str | None = None) -> str:
        """Send a text message; returns the event id."""
        content = {"msgtype": "m.text", "body": text}
        return await self.send(room_id, "m.room.message", content, txn_id)

    async def send(
        self, room_id: str, event_type: str, content: dict[str, Any], txn_id: str | None = None
    ) -> str:
        txn_id = txn_id or f"txn{next(_txns)}"
        path = f"/rooms/{quote(room_id, safe='')}/send/{quote(event_type, safe='')}/{txn_id}"
        return str((await self.ok("PUT", path, body=content))["event_id"])

    async def put_state(
        self, room_id: str, event_type: str, content: dict[str, Any], state_key: str = ""
    ) -> str:
        path = f"/rooms/{quote(room_id, safe='')}/state/{event_type}/{quote(state_key, safe='')}"
        return str((await self.ok("PUT", path, body=content))["event_id"])

    async def sync(self, *, remember: bool = True, **query: Any) -> Any:
        """One sync from where the last one ended (`since` overrides); `timeout` in ms."""
        if "since" not in query and self.since is not None:
            query["since"] = self.since
        query = {key: value for key, value in query.items() if value is not None}
        answer = await self.ok("GET", "/sync", query=query)
        if remember:
            self.since = answer["next_batch"]
        return answer


@pytest.fixture
def settings() -> dict[str, Any]:
    """Sections of the configuration that a test overrides, as in the TOML file."""
    return {}


def configure(database: DatabaseSettings, folder: Path, changed: dict[str, Any]) -> Config:
    """The configuration of a test server, on a free port and with cheap passwords."""
    url = f"sqlite:{database.path}"
    if database.dsn is not None:
        url = "postgresql://?" + urlencode(conninfo_to_dict(database.dsn))
    document: dict[str, Any] = {
        "server": {"name": SERVER_NAME, "data_dir": str(folder)},
        "database": {"url": url, "synchronous": "normal"},
        "registration": {"mode": "open", "shared_secret": "shared secret"},
        "passwords": {"cost": "cheap"},
        "limits": {"enabled": False},
        "presence": {"enabled": False},
        "listeners": [{"port": 0}],
    }
    for section, values in changed.items():
        table = isinstance(values, dict)
        document[section] = {**document.get(section, {}), **values} if table else values
    return Config.read(document, "the test", folder, {})


@contextlib.asynccontextmanager
async def served(
    database_settings: DatabaseSettings, folder: Path, changed: dict[str, Any]
) -> AsyncIterator[Running]:
    """A running server; when the test is over, its derived tables must say what its events say."""
    clock = FakeClock()
    config = configure(database_settings, folder, changed)
    app = App(config, clock)
    await app.start()
    async with aiohttp.ClientSession() as http:
        running = Running(app, config, clock, http)
        try:
            yield running
        finally:
            await running.app.stop()
    database = await open_database(database_settings)
    try:
        assert await differences(database) == []
    finally:
        await database.close()


@pytest.fixture
async def server(
    database_settings: DatabaseSettings, tmp_path: Path, settings: dict[str, Any]
) -> AsyncIterator[Running]:
    """A running server, on each database."""
    async with served(database_settings, tmp_path, settings) as running:
        yield running
