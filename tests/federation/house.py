"""A house of homeservers: processes of ours that federate under names of a private internet.

Owns what several servers need to find and believe each other: a certificate authority's files, a
name server for each of them (so that each can be told another way to its peers), the wires between
them, and the test's own homeserver, a `Guest`, that speaks as it is told. Names are like
`a.example`; SRV records lead to the ports. Every server is on SQLite unless a database is given,
and can be stopped, killed and started again on the same data.

    async with house(authority, tmp_path) as made:
        a, b = await made.start("a.example", "b.example")
        alice = await a.person("alice")
"""

import asyncio
import contextlib
import itertools
import json
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import trustme
from aiohttp import web
from yarl import URL

from federation.authorization import authorise
from homeserver.matrix.canonical import JsonObject, encode
from homeserver.matrix.sign import SigningKey, event_id_of, hash_and_sign
from homeserver.matrix.versions import ROOM_VERSIONS
from homeserver.runtime import key_file
from homeserver.runtime.clock import SystemClock
from tests.federation.internet import Peer, Seen, TlsServer, nothing_here
from tests.federation.name_server import NameServer
from tests.federation.wires import Wire
from tests.processes import OurServer, free_port
from tests.serving import PASSWORD, Person, Reply

HERE = "loopback.example"
SECONDS = 30.0
T = TypeVar("T")


class HouseServer(OurServer):
    """One of our servers; `options` are lines of its section [federation]."""

    def __init__(
        self,
        house: "House",
        name: str,
        database: str | None = None,
        options: str = "",
        *,
        presence: bool = False,
        limits: bool = False,
    ) -> None:
        self.house = house
        self.options = options
        self.federation_port = free_port()
        folder = house.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        self.chain, self.key = folder / "chain.pem", folder / "key.pem"
        issued = house.authority.issue_cert(name)
        for number, part in enumerate(issued.cert_chain_pems):
            part.write_to_path(str(self.chain), append=number > 0)
        issued.private_key_pem.write_to_path(str(self.key))
        super().__init__(folder, database, name, presence=presence, limits=limits)
        self.ports.append(self.federation_port)

    def configure(self) -> None:
        """Add the listener and the section [federation]."""
        super().configure()
        files = {"tls_certificate": self.chain, "tls_key": self.key}
        lines = ["[[listeners]]", f"port = {self.federation_port}", 'apis = ["federation"]']
        lines += [f"{key} = {json.dumps(str(path))}" for key, path in files.items()]
        lines += ["[federation]", f"ca_file = {json.dumps(str(self.house.authority_file))}"]
        lines += ['allow_networks = ["127.0.0.0/8"]']
        lines += [f"dns = [{json.dumps(self.house.names_for(self.name).address)}]"]
        with self.config.open("a") as config:
            config.write("\n".join([*lines, self.options, ""]))

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
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        params = {key: str(value) for key, value in (query or {}).items()}
        async with self.house.http.request(
            method, self.url + path, headers=headers, json=body, data=data, params=params
        ) as answer:
            raw = await answer.read()
            is_json = "json" in answer.headers.get("Content-Type", "")
            return Reply(answer.status, json.loads(raw) if is_json else raw, answer.headers)

    async def person(self, localpart: str) -> Person:
        """A new account with one session."""
        body = {
            "username": localpart,
            "password": PASSWORD,
            "auth": {"type": "m.login.dummy"},
        }
        reply = await self.request("POST", "/_matrix/client/v3/register", body=body)
        assert reply.status == 200, reply.body
        made = reply.body
        return Person(self, made["user_id"], made["access_token"], made["device_id"])


class Guest:
    """A homeserver that the test plays: it has keys and a name, and answers what it is told to.

    `seen` are the requests that came, `transactions` the bodies of those to /send. `answer` is
    asked for everything but the keys; `refuse` answers /send (None: all is well).
    """

    def __init__(self, house: "House", name: str) -> None:
        self.house = house
        self.name = name
        self.keys = Peer(name, SystemClock())
        self.server = TlsServer(house.authority, name)
        self.server.handler = self._handle
        self.transactions: list[JsonObject] = []
        self.answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]] = nothing_here
        self.refuse: Callable[[JsonObject], web.StreamResponse | None] | None = None
        self._txns = itertools.count(1)

    @property
    def pdus(self) -> list[JsonObject]:
        """The events that came, as often as they came."""
        return [pdu for body in self.transactions for pdu in body["pdus"]]

    @property
    def seen(self) -> list[Seen]:
        """The requests that came."""
        return self.server.seen

    def user(self, localpart: str) -> str:
        """The id of a user of it."""
        return f"@{localpart}:{self.name}"

    async def request(self, to: HouseServer, method: str, target: str, body: Any = None) -> Reply:
        """A request that it signs; `target` is path and query as they are sent."""
        return await self.house.signed(self.name, self.keys.key, to, method, target, body)

    async def join(
        self, to: HouseServer, room_id: str, user_id: str, *, omit_members: bool = False
    ) -> JsonObject:
        """Join a room through a server; returns the answer of send_join."""
        room, user = quote(room_id, safe=""), quote(user_id, safe="")
        versions = "&".join(f"ver={number}" for number in range(1, 13))
        target = f"/_matrix/federation/v1/make_join/{room}/{user}?{versions}"
        made = await self.request(to, "GET", target)
        assert made.status == 200, made.body
        rules = ROOM_VERSIONS[made.body["room_version"]]
        template = dict(made.body["event"])
        if rules.event_ids == "sender":
            template["event_id"] = f"$join{next(self._txns)}:{self.name}"
        signed = hash_and_sign(template, rules, self.name, self.keys.key)
        event_id = quote(event_id_of(signed, rules), safe="")
        query = "?omit_members=true" if omit_members else ""
        target = f"/_matrix/federation/v2/send_join/{room}/{event_id}{query}"
        joined = await self.request(to, "PUT", target, signed)
        assert joined.status == 200, joined.body
        return dict(joined.body)

    async def send(
        self, to: HouseServer, *pdus: JsonObject, edus: list[JsonObject] | None = None
    ) -> Reply:
        """A transaction with a new id."""
        now = self.keys.clock.now_ms()
        body: JsonObject = {"origin": self.name, "origin_server_ts": now, "pdus": list(pdus)}
        if edus:
            body["edus"] = edus
        target = f"/_matrix/federation/v1/send/t{now}-{next(self._txns)}"
        return await self.request(to, "PUT", target, body)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path.startswith("/_matrix/key/"):
            return await self.keys.serve(request)
        if not request.path.startswith("/_matrix/federation/v1/send/"):
            return await self.answer(request)
        body = json.loads(await request.read())
        refused = self.refuse(body) if self.refuse is not None else None
        if refused is not None:
            return refused
        self.transactions.append(body)
        return web.json_response({"pdus": {}})


class House:
    """All of it; see the module. With `wired` every way from one to another is a `Wire`."""

    def __init__(self, authority: trustme.CA, folder: Path, *, wired: bool = False) -> None:
        self.authority = authority
        self.folder = folder
        self.authority_file = folder / "authority.pem"
        authority.cert_pem.write_to_path(str(self.authority_file))
        self.servers: dict[str, HouseServer] = {}
        self.guests: dict[str, Guest] = {}
        self.wires: dict[tuple[str, str], Wire] = {}
        self.http: aiohttp.ClientSession
        self.trust = _trust(authority)
        self._wired = wired
        self._names: dict[str, NameServer] = {}
        self._backstage = _Backstage()

    def names_for(self, server: str) -> NameServer:
        """The name server that this server asks."""
        if server not in self._names:
            made = self._names[server] = NameServer()
            self._backstage.run(made.start())
            made.put(HERE, "A", "127.0.0.1")
        return self._names[server]

    def server(self, name: str, database: str | None = None, **options: Any) -> HouseServer:
        """A server that can be started; every other one finds it by its name."""
        made = self.servers[name] = HouseServer(self, name, database, **options)
        for other in [*self.servers, *self.guests]:
            self._connect(other, name)
            self._connect(name, other)
        return made

    async def start(self, *names: str) -> list[HouseServer]:
        """Servers of these names, made where there are none, all started."""
        made = [self.servers.get(name) or self.server(name) for name in names]
        with ThreadPoolExecutor(len(made)) as threads:
            loop = asyncio.get_running_loop()
            await asyncio.gather(*(loop.run_in_executor(threads, one.start) for one in made))
        return made

    async def guest(self, name: str) -> Guest:
        """A homeserver that the test plays itself."""
        made = self.guests[name] = Guest(self, name)
        await made.server.start()
        for other in self.servers:
            self._connect(other, name)
        return made

    async def request_as(
        self, source: HouseServer, to: HouseServer, method: str, target: str, body: Any = None
    ) -> Reply:
        """A request signed with the key of one of our servers."""
        (key,) = key_file.read(source.folder / "signing.key")
        return await self.signed(source.name, key, to, method, target, body)

    async def signed(
        self, name: str, key: SigningKey, to: HouseServer, method: str, target: str, body: Any
    ) -> Reply:
        """A request to one of our servers, signed by the server of that name."""
        signed = authorise(method, target, name, to.name, body, key)
        headers = {"Authorization": str(signed), "Host": to.name}
        if body is not None:
            headers["Content-Type"] = "application/json"
        url = URL(f"https://127.0.0.1:{to.federation_port}{target}", encoded=True)
        async with self.http.request(
            method,
            url,
            headers=headers,
            data=None if body is None else encode(body),
            ssl=self.trust,
            server_hostname=to.name,
        ) as answer:
            raw = await answer.read()
            is_json = "json" in answer.headers.get("Content-Type", "")
            return Reply(answer.status, json.loads(raw) if is_json else raw, answer.headers)

    def cut(self, one: str, other: str) -> None:
        """Nothing passes between two servers any more; only in a wired house."""
        for wire in self._between(one, other):
            self._backstage.call(wire.cut)

    def mend(self, one: str, other: str) -> None:
        """They can reach each other again."""
        for wire in self._between(one, other):
            self._backstage.call(wire.mend)

    def _between(self, one: str, other: str) -> list[Wire]:
        """Both ways; a guest has none to a server."""
        found = [self.wires.get((one, other)), self.wires.get((other, one))]
        assert any(found), "the house is not wired"
        return [wire for wire in found if wire is not None]

    def _port(self, name: str) -> int:
        if name in self.guests:
            return self.guests[name].server.port
        return self.servers[name].federation_port

    def _connect(self, source: str, target: str) -> None:
        if source != target and source in self.servers:
            self.lead(source, target, self._port(target))

    def lead(self, source: str, target: str, port: int) -> None:
        """Let a server, in the house or not, find the name `target` at this port."""
        if self._wired:
            wire = self.wires[source, target] = Wire(port)
            self._backstage.run(wire.start())
            port = wire.port
        self.names_for(source).put(f"_matrix-fed._tcp.{target}", "SRV", f"0 0 {port} {HERE}.")

    async def close(self) -> None:
        """End everything."""
        for server in self.servers.values():
            server.kill()
        for guest in self.guests.values():
            await guest.server.stop()
        for wire in self.wires.values():
            self._backstage.run(wire.stop())
        for names in self._names.values():
            self._backstage.run(names.stop())
        self._backstage.close()


@contextlib.asynccontextmanager
async def house(
    authority: trustme.CA, folder: Path, *, wired: bool = False
) -> AsyncIterator[House]:
    """A house; when something fails in it, the ends of the servers' logs are added."""
    made = House(authority, folder, wired=wired)
    timeout = aiohttp.ClientTimeout(total=150)
    async with aiohttp.ClientSession(timeout=timeout) as made.http:
        try:
            yield made
        except BaseException as error:
            for server in made.servers.values():
                error.add_note(f"--- end of the log of {server.name} ---\n{server.log_end()}")
            raise
        finally:
            await made.close()


async def until(check: Callable[[], Awaitable[T]], seconds: float = SECONDS) -> T:
    """The first true answer of `check`, asked again and again; fails when that never comes."""
    async with asyncio.timeout(seconds):
        while True:
            found = await check()
            if found:
                return found
            await asyncio.sleep(0.05)


async def heard(person: Person, room_id: str, event_id: str, seconds: float = SECONDS) -> Any:
    """The event, once it comes down the person's /sync; what came before it is passed over."""
    async with asyncio.timeout(seconds):
        while True:
            answer = await person.sync(timeout=5_000)
            room = answer.get("rooms", {}).get("join", {}).get(room_id, {})
            for event in room.get("timeline", {}).get("events", ()):
                if event["event_id"] == event_id:
                    return event


def _trust(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


class _Backstage:
    """A loop in a thread of its own: names are resolved while the test waits for a process."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SECONDS)

    def call(self, work: Callable[[], None]) -> None:
        async def run() -> None:
            work()

        self.run(run())

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
