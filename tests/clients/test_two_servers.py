"""The same conversation with the two people on different servers, and one of those away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.clients.conftest import arrive
from tests.clients.js_person import JsPerson
from tests.clients.nio_person import NioPerson
from tests.clients.person import Person
from tests.clients.test_conversation import converse
from tests.federation.house import House


@pytest.fixture
async def people(made: House, tmp_path: Path) -> AsyncIterator[tuple[NioPerson, JsPerson]]:
    """Nina on a.example, with matrix-nio, and Jasper on b.example, with matrix-js-sdk."""
    nina = NioPerson(made.servers["a.example"].url)
    jasper = JsPerson(made.servers["b.example"].url, tmp_path / "js.log")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(nina.quit)
        await arrive(nina, "nina")
        stack.push_async_callback(jasper.quit)
        await jasper.open()
        await arrive(jasper, "jasper")
        yield nina, jasper


@pytest.mark.parametrize("first", ["nio", "js"])
async def test_a_conversation_across_servers(
    people: tuple[NioPerson, JsPerson], first: str
) -> None:
    nina, jasper = people
    pair: tuple[Person, Person] = (nina, jasper) if first == "nio" else (jasper, nina)
    await converse(*pair)


async def test_what_was_said_while_a_server_was_killed_is_heard(
    made: House, people: tuple[NioPerson, JsPerson]
) -> None:
    nina, jasper = people
    room_id = await nina.create_room("Line")
    await nina.invite(room_id, jasper.user_id)
    await jasper.until(room_id, lambda view: view.membership == "invite")
    await jasper.join(room_id)
    await jasper.until_seen(room_id, await nina.say(room_id, "Can you hear me?"))
    await asyncio.to_thread(made.servers["b.example"].kill)
    missed = [await nina.say(room_id, f"Jasper is away {number}") for number in range(5)]
    await asyncio.to_thread(made.servers["b.example"].start)
    for event_id in missed:
        await jasper.until_seen(room_id, event_id)
    await nina.until_seen(room_id, await jasper.say(room_id, "I am back"))
