"""A program of matrix-js-sdk that syncs by sliding sync, with all the extensions that it knows."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.clients.conftest import arrive
from tests.clients.js_person import JsPerson
from tests.clients.nio_person import NioPerson
from tests.federation.house import until
from tests.processes import Server

Make = Callable[[str], Awaitable[JsPerson]]


@pytest.fixture
async def program(server: Server, tmp_path: Path) -> AsyncIterator[Make]:
    """Opens programs, each with a log of its own."""
    async with AsyncExitStack() as stack:

        async def make(log: str) -> JsPerson:
            person = JsPerson(server.url, tmp_path / f"{log}.log", sliding=True)
            stack.push_async_callback(person.quit)
            await person.open()
            return person

        yield make


async def test_a_conversation(program: Make, nio: NioPerson) -> None:
    js = await program("first")
    await arrive(js, "jasper")
    garden = await js.create_room("The garden")
    await js.until(garden, lambda view: view.name == "The garden")
    await js.invite(garden, nio.user_id)
    await nio.until(garden, lambda view: view.membership == "invite")
    await nio.join(garden)
    await js.until(
        garden,
        lambda view: nio.user_id in view.members and view.members[nio.user_id].membership == "join",
    )
    question = await nio.say(garden, "Is it raining?")
    seen = (await js.until_seen(garden, question)).event(question)
    assert seen is not None
    assert (seen.body, seen.sender) == ("Is it raining?", nio.user_id)
    answer = await js.say(garden, "Not here")
    await nio.until_seen(garden, answer)

    await nio.type(garden, typing=True)
    await js.until(garden, lambda view: nio.user_id in view.typing)
    await nio.type(garden, typing=False)
    await js.until(garden, lambda view: nio.user_id not in view.typing)
    await nio.read(garden, answer)
    await js.until(garden, lambda view: view.receipts.get(nio.user_id) == answer)

    kitchen = await nio.create_room("The kitchen")
    await nio.invite(kitchen, js.user_id)
    await js.until(kitchen, lambda view: view.membership == "invite")
    await js.join(kitchen)
    await js.until(kitchen, lambda view: view.membership == "join")
    await js.until_seen(kitchen, await nio.say(kitchen, "Tea?"))
    assert await js.room_order() == (2, [kitchen, garden])
    await js.until_seen(garden, await nio.say(garden, "It does now"))
    assert await js.room_order() == (2, [garden, kitchen])


async def test_sticky_events_come_to_a_device_that_is_new(program: Make, nio: NioPerson) -> None:
    """Also those that no timeline shows any more (MSC4480)."""
    first = await program("first")
    await arrive(first, "jasper")
    room = await first.create_room("The garden")
    await first.until(room, lambda view: view.name == "The garden")
    content = {"msc4354_sticky_key": "PHONE", "application": "m.call"}
    await first.call("_unstable_sendStickyEvent", room, 600_000, None, "m.rtc.member", content)
    for number in range(25):
        await first.say(room, str(number))
    second = await program("second")
    await second.login("jasper")
    await second.start()

    async def held() -> bool:
        return bool(await second.sticky_events(room))

    await until(held)
    (event,) = await second.sticky_events(room)
    assert (event["sender"], event["content"]["application"]) == (first.user_id, "m.call")


async def test_keys_and_their_messages_arrive(program: Make) -> None:
    """What one encrypts the other reads: device lists, key counts and messages to devices come."""
    ada, bo = await program("ada"), await program("bo")
    for person, name in ((ada, "ada"), (bo, "bo")):
        await person.register(name)
        await person.login(name)
        await person.encrypt()
        await person.start()
    room = await ada.create_encrypted_room("The cellar")
    await ada.until(room, lambda view: view.name == "The cellar")
    await ada.invite(room, bo.user_id)
    await bo.until(room, lambda view: view.membership == "invite")
    await bo.join(room)
    for person in (ada, bo):
        await person.until(
            room,
            lambda view: all(
                user in view.members and view.members[user].membership == "join"
                for user in (ada.user_id, bo.user_id)
            ),
        )
    for sender, reader in ((ada, bo), (bo, ada)):
        event = await sender.say(room, f"secret of {sender.user_id}")

        async def read(reader: JsPerson = reader, event: str = event) -> bool:
            found = {one["event_id"]: one["body"] for one in await reader.readings(room)}
            return found.get(event) is not None

        await until(read)
