"""What stands in `unsigned`: it depends on who reads, from which device, and when.

spec: client-server-api#room-event-format
"""

from typing import Any

from tests.serving import PASSWORD, Person, Running
from tests.streams.reading import filtered, joined, left, moved, said, state_of


async def newest(person: Person, room: str, **query: Any) -> Any:
    answer = await person.sync(since="", remember=False, **query)
    return joined(answer, room)["timeline"]["events"][-1]


async def another_device(server: Running, person: Person) -> Person:
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": person.user_id},
        "password": PASSWORD,
    }
    reply = await person.ok("POST", "/login", body=body)
    return Person(server, person.user_id, reply["access_token"], reply["device_id"])


async def test_a_transaction_id_is_for_the_sending_device_alone(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    tablet = await another_device(server, alice)
    await alice.sync()
    await alice.say(room, "hello", "txn-1")

    live = joined(await alice.sync(), room)["timeline"]["events"][-1]
    assert live["unsigned"]["transaction_id"] == "txn-1"
    for _ in range(2):
        assert (await newest(alice, room))["unsigned"]["transaction_id"] == "txn-1"
        for other in (tablet, bob):
            assert "transaction_id" not in (await newest(other, room))["unsigned"]
        await server.restart()
    await alice.ok("POST", "/logout", body={})
    again = await another_device(server, bob)
    assert "transaction_id" not in (await newest(again, room))["unsigned"]
    anew = await another_device(server, tablet)
    assert "transaction_id" not in (await newest(anew, room))["unsigned"]


async def test_age_is_counted_when_it_is_told(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    await alice.say(room, "hello")
    assert (await newest(alice, room))["unsigned"]["age"] == 0
    await server.clock.advance(5)
    assert (await newest(alice, room))["unsigned"]["age"] == 5_000


async def test_membership_is_the_readers_at_the_event(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    section = joined(await bob.sync(), room)
    memberships = [event["unsigned"]["membership"] for event in section["timeline"]["events"]]
    assert memberships == ["leave"] * (len(memberships) - 1) + ["join"]
    await alice.say(room, "x")
    await moved(alice, room, "ban", bob)
    section = left(await bob.sync(), room)
    memberships = [event["unsigned"]["membership"] for event in section["timeline"]["events"]]
    assert memberships == ["join", "ban"]


async def test_what_a_state_event_replaced(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    first = await alice.put_state(room, "test.state", {"value": 1})
    event = await newest(alice, room)
    assert not {"prev_content", "replaces_state"} & set(event["unsigned"])
    await alice.sync()
    await alice.put_state(room, "test.state", {"value": 2})
    live = joined(await alice.sync(), room)["timeline"]["events"][-1]
    for event in (live, await newest(alice, room)):
        assert event["unsigned"]["prev_content"] == {"value": 1}
        assert event["unsigned"]["replaces_state"] == first
    # Saying the same again is no new event.
    await alice.put_state(room, "test.state", {"value": 2})
    assert "rooms" not in await alice.sync()
    await server.restart()
    event = await newest(alice, room)
    assert event["unsigned"]["prev_content"] == {"value": 1}
    # Told as state, too.
    await alice.say(room, "x")
    section = joined(await alice.sync(since="", filter=filtered(limit=1)), room)
    assert said(section)
    told = state_of(section)["test.state", ""]
    assert told["unsigned"]["prev_content"] == {"value": 1}
