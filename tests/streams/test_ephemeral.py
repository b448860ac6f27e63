"""Typing and receipts in sync.

spec: client-server-api#typing-notifications and client-server-api#receipts
"""

from tests.serving import Person, Running
from tests.streams.reading import ephemeral, joined, keep, moved, read, told, typing


async def pair(server: Running) -> tuple[Person, Person, str]:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    await alice.sync()
    await bob.sync()
    return alice, bob, room


async def who_types(person: Person, room: str) -> list[str] | None:
    """The users of the next answer's typing event, None when there is none."""
    answer = await person.sync()
    if "rooms" not in answer:
        return None
    found = ephemeral(joined(answer, room), "m.typing")
    return found[0]["user_ids"] if found else None


async def test_typing_begins_and_ends(server: Running) -> None:
    alice, bob, room = await pair(server)
    await typing(bob, room)
    assert await who_types(alice, room) == [bob.user_id]
    # Still the same: nothing to tell.
    await typing(bob, room)
    assert await who_types(alice, room) is None
    await typing(alice, room)
    assert await who_types(alice, room) == [bob.user_id, alice.user_id]
    await typing(bob, room, False)
    assert await who_types(alice, room) == [alice.user_id]
    # It ends by itself.
    await server.clock.advance(31)
    assert await who_types(alice, room) == []
    # And with the typist's stay.
    await typing(bob, room)
    assert await who_types(alice, room) == [bob.user_id]
    await moved(bob, room, "leave")
    assert await who_types(alice, room) == []


async def test_typing_takes_no_position(server: Running) -> None:
    alice, bob, room = await pair(server)
    pos = server.app.services.sync.position.pos
    await typing(bob, room)
    assert await who_types(alice, room) == [bob.user_id]
    assert server.app.services.sync.position.pos == pos


async def test_after_a_restart_nobody_types_any_more(server: Running) -> None:
    alice, bob, room = await pair(server)
    await typing(bob, room)
    assert await who_types(alice, room) == [bob.user_id]
    await server.restart()
    assert await who_types(alice, room) == []
    assert await who_types(alice, room) is None
    # Whom nobody was shown as typing isn't told of it.
    await server.restart()
    assert told(await alice.sync()) == set()
    # Somebody types already when the client comes.
    await typing(bob, room)
    await server.clock.advance(1)
    assert await who_types(alice, room) == [bob.user_id]


async def test_who_joins_sees_who_types(server: Running) -> None:
    _, bob, room = await pair(server)
    carol = await server.person("carol")
    await typing(bob, room)
    await carol.sync()
    await carol.join(room)
    assert await who_types(carol, room) == [bob.user_id]


async def test_receipts_public_private_and_of_threads(server: Running) -> None:
    alice, bob, room = await pair(server)
    event_id = await alice.say(room, "x")
    tablet_since = bob.since
    await alice.sync()
    await bob.sync()
    await read(bob, room, event_id, "m.read.private")
    assert "rooms" not in await alice.sync()
    (content,) = ephemeral(joined(await bob.sync(), room), "m.receipt")
    now = server.clock.now_ms()
    assert content == {event_id: {"m.read.private": {bob.user_id: {"ts": now}}}}

    await read(bob, room, event_id)
    (content,) = ephemeral(joined(await alice.sync(), room), "m.receipt")
    assert content == {event_id: {"m.read": {bob.user_id: {"ts": now}}}}
    # One user may have read one event in the whole room and in a thread of it.
    await read(bob, room, event_id, thread_id="main")
    (content,) = ephemeral(joined(await alice.sync(), room), "m.receipt")
    assert content == {event_id: {"m.read": {bob.user_id: {"ts": now, "thread_id": "main"}}}}
    for person, query in ((bob, {"since": tablet_since}), (alice, {"since": ""})):
        contents = ephemeral(joined(await person.sync(**query), room), "m.receipt")
        threads = [
            content[event_id]["m.read"][bob.user_id].get("thread_id") for content in contents
        ]
        assert threads == [None, "main"]
    # Backwards nothing moves.
    later = await alice.say(room, "y")
    await read(bob, room, later)
    await alice.sync()
    await read(bob, room, event_id)
    assert told(await alice.sync()) == set()


async def test_account_data_goes_to_all_own_devices_and_to_nobody_else(server: Running) -> None:
    alice, bob, room = await pair(server)
    since = alice.since
    event_id = await alice.say(room, "x")
    await bob.sync()
    await alice.sync()
    await keep(alice, "test.data", {"v": 1})
    await keep(alice, "test.data", {"v": 2})
    await keep(alice, "test.room", {"v": 3}, room)
    body = {"m.fully_read": event_id}
    await alice.ok("POST", f"/rooms/{room}/read_markers", body=body)
    for start in (alice.since, since):
        answer = await alice.sync(since=start)
        (event,) = answer["account_data"]["events"]
        assert event == {"type": "test.data", "content": {"v": 2}}
        events = joined(answer, room)["account_data"]["events"]
        assert events == [
            {"type": "test.room", "content": {"v": 3}},
            {"type": "m.fully_read", "content": {"event_id": event_id}},
        ]
    assert told(await bob.sync()) == set()
