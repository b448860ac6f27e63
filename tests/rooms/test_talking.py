"""Two people in a room: what one does, the other sees."""

import asyncio

from tests.serving import Running


async def test_a_message_reaches_the_other_once(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat", name="Hi")
    await bob.join(room)
    await alice.sync()
    await bob.sync()
    event_id = await bob.say(room, "hello")

    heard = (await alice.sync())["rooms"]["join"][room]["timeline"]
    assert [event["event_id"] for event in heard["events"]] == [event_id]
    assert heard["limited"] is False
    assert "rooms" not in await alice.sync()


async def test_a_waiting_client_is_woken(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    await alice.sync()
    waiting = asyncio.create_task(alice.sync(timeout=30_000))
    await server.parked()
    event_id = await bob.say(room, "wake up")
    events = (await waiting)["rooms"]["join"][room]["timeline"]["events"]
    assert [event["event_id"] for event in events] == [event_id]


async def test_tokens_are_good_after_a_restart(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    await alice.sync()
    first = await bob.say(room, "before")
    await server.restart()
    second = await bob.say(room, "after")
    events = (await alice.sync())["rooms"]["join"][room]["timeline"]["events"]
    assert [event["event_id"] for event in events] == [first, second]
