"""The server goes away in the middle of a conversation; the programs go on from their tokens."""

import asyncio
from collections.abc import Callable

import pytest

from bench.client import Client
from tests.clients.js_person import JsPerson
from tests.clients.nio_person import NioPerson
from tests.clients.person import Person, in_one_piece
from tests.processes import Server
from tests.serving import PASSWORD


async def _talking(first: Person, second: Person) -> str:
    room_id = await first.create_room("Line")
    await first.invite(room_id, second.user_id)
    await second.until(room_id, lambda view: view.membership == "invite")
    await second.join(room_id)
    await _exchange(room_id, first, second)
    return room_id


async def _exchange(room_id: str, *people: Person) -> None:
    """Each says something that all the others see."""
    for speaker in people:
        event_id = await speaker.say(room_id, "Can you hear me?")
        for person in people:
            await person.until_seen(room_id, event_id)


async def _heard_everything_once(server: Server, room_id: str, *people: Person) -> None:
    """What the sync loops delivered is the room's history, without a gap or a repeat."""
    reader = Client("127.0.0.1", server.port)
    await reader.login("nina", PASSWORD)
    history = (await reader.history(room_id))[::-1]
    reader.close()
    names = {e["event_id"]: f"{e['type']} {e['content'].get('body', '')}" for e in history}
    assert len(names) == len(history)
    for person in people:
        heard = in_one_piece(await person.until_heard(room_id, history[-1]["event_id"]))
        due = list(names)[list(names).index(heard[0]) :]
        assert [names.get(event_id) for event_id in heard] == [names[e] for e in due]
        assert heard == due


@pytest.mark.parametrize("end", [Server.stop, Server.kill], ids=["stop", "kill -9"])
async def test_both_go_on_after_the_server_was_away(
    end: Callable[[Server], object], server: Server, nio: NioPerson, js: JsPerson
) -> None:
    room_id = await _talking(nio, js)
    for _ in range(2):
        await asyncio.to_thread(end, server)
        await asyncio.to_thread(server.start)
        await _exchange(room_id, nio, js)
    await _heard_everything_once(server, room_id, nio, js)


async def test_what_was_said_while_the_server_was_killed_arrives_once(
    server: Server, nio: NioPerson, js: JsPerson
) -> None:
    room_id = await _talking(nio, js)
    said: dict[str, list[str]] = {"nina": [], "jasper": []}
    enough = asyncio.Event()

    async def chatter(name: str, person: Person) -> None:
        for number in range(40):
            said[name].append(await person.say(room_id, f"{name} {number}"))
            if len(said[name]) == 10:
                enough.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(chatter("nina", nio))
        group.create_task(chatter("jasper", js))
        await enough.wait()
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
    for person in (nio, js):
        await person.until_seen(room_id, said["nina"][-1])
        view = await person.until_seen(room_id, said["jasper"][-1])
        bodies = [seen.body for seen in view.timeline if seen.body and " " in seen.body]
        for name in said:
            own = [body for body in bodies if body.startswith(name)]
            assert own == [f"{name} {number}" for number in range(40)]
    await _heard_everything_once(server, room_id, nio, js)


async def test_a_program_goes_on_from_its_stored_token_after_both_were_restarted(
    server: Server, nio: NioPerson, js: JsPerson
) -> None:
    room_id = await _talking(nio, js)
    await nio.quit()
    missed = [await js.say(room_id, f"Nina is away {number}") for number in range(5)]
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)
    await nio.restart()
    for event_id in missed:
        await nio.until_seen(room_id, event_id)
    await _heard_everything_once(server, room_id, nio, js)
