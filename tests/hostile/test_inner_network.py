"""No request of a user makes the server talk to its own machine, whatever the request is about.

A trap listens on a loopback address. Where the configuration allows that network, each way leads
into it, so that the test says something where it doesn't.
"""

import ast
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from storage.engine import DatabaseSettings
from tests.federation.name_server import NameServer
from tests.serving import Person, Running

ROOT = Path(__file__).resolve().parent.parent.parent
DENIED: list[str] = []
ALLOWED = ["127.0.0.0/8"]


@dataclass
class Trap:
    """How often somebody has connected to `port`."""

    port: int = 0
    caught: int = 0

    @property
    def name(self) -> str:
        """A name that leads to it, as a server's, a host's, or part of an id."""
        return f"inner.example:{self.port}"


@pytest.fixture
def database_settings(tmp_path: Path) -> DatabaseSettings:
    return DatabaseSettings(path=tmp_path / "test.db", durable=False)


@pytest.fixture
async def trap() -> AsyncIterator[Trap]:
    made = Trap()

    async def catch(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.caught += 1
        writer.close()

    async with await asyncio.start_server(catch, "127.0.0.1", 0) as server:
        made.port = server.sockets[0].getsockname()[1]
        yield made


@pytest.fixture
async def names() -> AsyncIterator[NameServer]:
    server = NameServer()
    await server.start()
    server.put("inner.example", "A", "127.0.0.1")
    yield server
    await server.stop()


@pytest.fixture(params=[DENIED, ALLOWED], ids=["denied", "allowed"])
def settings(request: pytest.FixtureRequest, names: NameServer) -> dict[str, Any]:
    return {"federation": {"allow_networks": request.param, "dns": [names.address]}}


Way = Callable[[Person, Trap], Awaitable[object]]
WAYS: list[Way] = []


def way(go: Way) -> Way:
    WAYS.append(go)
    return go


@way
async def a_pusher(person: Person, trap: Trap) -> None:
    body = {
        "app_id": "test.app",
        "pushkey": "key",
        "kind": "http",
        "app_display_name": "App",
        "device_display_name": "Device",
        "lang": "en",
        "data": {"url": f"https://{trap.name}/_matrix/push/v1/notify"},
    }
    await person.ok("POST", "/pushers/set", body=body)
    path = f"/_homeserver/admin/v1/push/{quote(person.user_id)}/test"
    (tried,) = (await person.ok("POST", path, body={}))["results"]
    assert tried["error"]


@way
async def a_preview(person: Person, trap: Trap) -> None:
    query = {"url": f"http://{trap.name}/"}
    await person.raw("GET", "/_matrix/client/v1/media/preview_url", query=query)


@way
async def a_file(person: Person, trap: Trap) -> None:
    await person.raw("GET", f"/_matrix/client/v1/media/download/{trap.name}/abc")


@way
async def a_thumbnail(person: Person, trap: Trap) -> None:
    path = f"/_matrix/client/v1/media/thumbnail/{trap.name}/abc"
    await person.raw("GET", path, query={"width": 32, "height": 32})


@way
async def a_profile(person: Person, trap: Trap) -> None:
    await person.raw("GET", f"/profile/@x:{trap.name}")


@way
async def keys(person: Person, trap: Trap) -> None:
    await person.raw("POST", "/keys/query", body={"device_keys": {f"@x:{trap.name}": []}})


@way
async def one_time_keys(person: Person, trap: Trap) -> None:
    body = {"one_time_keys": {f"@x:{trap.name}": {"D": "signed_curve25519"}}}
    await person.raw("POST", "/keys/claim", body=body)


@way
async def an_alias(person: Person, trap: Trap) -> None:
    await person.raw("GET", f"/directory/room/{quote(f'#x:{trap.name}')}")


@way
async def a_directory(person: Person, trap: Trap) -> None:
    await person.raw("GET", "/publicRooms", query={"server": trap.name})


@way
async def a_join(person: Person, trap: Trap) -> None:
    room_id = quote("!x:nowhere.example")
    await person.raw("POST", f"/join/{room_id}", query={"via": trap.name}, body={})


@way
async def a_knock(person: Person, trap: Trap) -> None:
    room_id = quote("!x:nowhere.example")
    await person.raw("POST", f"/knock/{room_id}", query={"via": trap.name}, body={})


@way
async def an_invite(person: Person, trap: Trap) -> None:
    room = await person.create_room()
    body = {"user_id": f"@x:{trap.name}"}
    await person.raw("POST", f"/rooms/{quote(room)}/invite", body=body)


@way
async def a_space(person: Person, trap: Trap) -> None:
    space = await person.create_room(creation_content={"type": "m.space"})
    child = {"via": [trap.name]}
    await person.put_state(space, "m.space.child", child, "!x:nowhere.example")
    await person.raw("GET", f"/_matrix/client/v1/rooms/{quote(space)}/hierarchy")


@way
async def an_identity_server(person: Person, trap: Trap) -> None:
    room = await person.create_room()
    body = {
        "medium": "email",
        "address": "a@mail.example",
        "id_server": trap.name,
        "id_access_token": "token",
    }
    await person.raw("POST", f"/rooms/{quote(room)}/invite", body=body)


@pytest.mark.parametrize("go", WAYS, ids=lambda go: go.__name__)
async def test_nobody_leads_the_server_to_its_own_machine(
    server: Running, trap: Trap, settings: dict[str, Any], go: Way
) -> None:
    person = await server.person("admin", admin=True)
    await go(person, trap)
    assert bool(trap.caught) == bool(settings["federation"]["allow_networks"])


# Of the program: who may open a connection, and to whom.
OPENS = {
    "create_connection",
    "create_datagram_endpoint",
    "create_unix_connection",
    "ClientSession",
    "HTTPConnection",
    "HTTPSConnection",
    "open_connection",
    "open_unix_connection",
    "sock_connect",
    "urlopen",
}
MAY_OPEN = {
    "homeserver/cli/connection.py": "the server that the command is for",
    "homeserver/http/outbound_pool.py": "whoever the rules allow: all others use this one",
}


def test_there_is_one_client_for_what_strangers_name() -> None:
    """Libraries reach what the operator has named: databases, buckets, name and mail servers."""
    found = set()
    for folder in ("homeserver", "client_api", "federation", "storage"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name in OPENS:
                    found.add(str(path.relative_to(ROOT)))
    assert found == set(MAY_OPEN), "others may connect to places unjudged"


def test_only_application_services_are_reached_without_rules() -> None:
    """Their addresses stand in registrations, which are the operator's."""
    found = [
        str(path.relative_to(ROOT))
        for folder in ("homeserver", "client_api", "federation")
        for path in (ROOT / folder).rglob("*.py")
        if "AddressRules(())" in path.read_text()
    ]
    assert found == ["homeserver/appservices/client.py"]
