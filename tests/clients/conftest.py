"""Servers of its own for each test, and the people on them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trustme

from storage.engine import DatabaseSettings
from tests.clients.encrypting import People, Programs
from tests.clients.js_person import JsPerson
from tests.clients.nio_person import NioPerson
from tests.clients.person import Person
from tests.federation.house import House, house
from tests.processes import Server, judged, running
from tests.serving import Running, served


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A running server; tests may stop, kill and start it."""
    with running(judged()(tmp_path / "server", presence=True)) as server:
        yield server


@pytest.fixture
async def nio(server: Server) -> AsyncIterator[NioPerson]:
    """Nina, whose program is made with matrix-nio; registered and logged in."""
    person = NioPerson(server.url)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(person.quit)
        await arrive(person, "nina")
        yield person


@pytest.fixture
async def js(server: Server, tmp_path: Path) -> AsyncIterator[JsPerson]:
    """Jasper, whose program is made with matrix-js-sdk; registered and logged in."""
    person = JsPerson(server.url, tmp_path / "js.log")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(person.quit)
        await person.open()
        await arrive(person, "jasper")
        yield person


@pytest.fixture
async def inside(tmp_path: Path) -> AsyncIterator[Running]:
    """A server in the test's own process, whose clock the test moves; tokens end in a minute."""
    database = DatabaseSettings(path=tmp_path / "inside.db", durable=False)
    async with served(database, tmp_path, {"sessions": {"refreshed_minutes": 1}}) as running:
        yield running


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[House]:
    """Two servers, a.example and b.example."""
    async with house(trustme.CA(), tmp_path) as one:
        await one.start("a.example", "b.example")
        yield one


@pytest.fixture
async def programs(made: House, tmp_path: Path) -> AsyncIterator[Programs]:
    async with AsyncExitStack() as stack:
        yield Programs(made.servers, tmp_path, stack)


@pytest.fixture
async def people(made: House, tmp_path: Path) -> AsyncIterator[People]:
    async with AsyncExitStack() as stack:
        yield People(made.servers, tmp_path / "programs", stack)


async def arrive(person: Person, username: str) -> None:
    """Make the account, log in, and begin to sync."""
    await person.register(username)
    await person.login(username)
    await person.start()
