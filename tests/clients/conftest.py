"""A server of its own for each test, and the two people on it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.clients.js_person import JsPerson
from tests.clients.nio_person import NioPerson
from tests.clients.person import Person
from tests.processes import Server, judged, running


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


async def arrive(person: Person, username: str) -> None:
    """Make the account, log in, and begin to sync."""
    await person.register(username)
    await person.login(username)
    await person.start()
