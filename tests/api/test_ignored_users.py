"""Whoever is ignored is heard no more. spec: client-server-api#ignoring-users"""

from typing import Any
from urllib.parse import quote

import pytest

from tests.serving import Person, Running


def of(room_id: str, rest: str) -> str:
    return f"/rooms/{quote(room_id, safe='')}/{rest}"


async def ignore(person: Person, *ignored: Person) -> None:
    users: Any = {other.user_id: {} for other in ignored}
    path = f"/user/{person.user_id}/account_data/m.ignored_user_list"
    await person.ok("PUT", path, body={"ignored_users": users})


async def room_of(owner: Person, *others: Person) -> str:
    room_id = await owner.create_room(preset="public_chat")
    for person in others:
        await person.join(room_id)
    return room_id


def texts(events: list[Any]) -> list[str]:
    return [event["content"].get("body", event["type"]) for event in events]


def ephemeral(answer: Any, room_id: str) -> dict[str, Any]:
    room = answer.get("rooms", {}).get("join", {}).get(room_id, {})
    events = room.get("ephemeral", {}).get("events", ())
    return {event["type"]: event["content"] for event in events}


async def test_messages_are_hidden_and_state_is_not(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await room_of(alice, bob)
    first = await bob.say(room_id, "mine")
    await ignore(bob, alice)
    await bob.sync()
    hidden = await alice.say(room_id, "hidden")
    await alice.put_state(room_id, "m.room.topic", {"topic": "shown"})
    await bob.say(room_id, "mine too")
    shown = ["m.room.topic", "mine too"]
    for since in (bob.since, None):
        answer = await bob.sync(since=since, remember=False)
        room = answer["rooms"]["join"][room_id]
        assert texts(room["timeline"]["events"])[-2:] == shown
        assert "hidden" not in texts(room["timeline"]["events"])
    for direction in "bf":
        page = await bob.ok("GET", of(room_id, "messages"), query={"dir": direction, "limit": 99})
        assert "hidden" not in texts(page["chunk"])
        assert set(shown) <= set(texts(page["chunk"]))
    context = await bob.ok("GET", of(room_id, f"context/{quote(first, safe='')}"))
    assert texts(context["events_after"]) == shown
    for path in ("event", "context"):
        path = of(room_id, f"{path}/{quote(hidden, safe='')}")
        await bob.refused("M_NOT_FOUND", "GET", path)
    assert (await alice.ok("GET", of(room_id, f"event/{quote(hidden, safe='')}")))["event_id"]


async def test_it_begins_and_ends_at_once(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await room_of(alice, bob)
    await bob.sync()
    for ignored, expected in ((True, []), (False, ["2"]), (True, []), (False, ["4"])):
        await ignore(bob, *([alice] if ignored else []))
        await bob.sync()
        number = 1 + ["1", "2", "3", "4"].index(expected[0]) if expected else 0
        await alice.say(room_id, str(number))
        room = (await bob.sync()).get("rooms", {}).get("join", {}).get(room_id)
        assert (texts(room["timeline"]["events"]) if room else []) == expected
    await server.restart()
    await ignore(bob, alice)
    await alice.say(room_id, "hidden")
    assert room_id not in (await bob.sync()).get("rooms", {}).get("join", {})


async def test_invites_do_not_arrive(server: Running) -> None:
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    await ignore(bob, alice)
    await bob.sync()
    for person in (alice, carol):
        room_id = await person.create_room(name=person.user_id)
        await person.ok("POST", of(room_id, "invite"), body={"user_id": bob.user_id})
    for since in (bob.since, None):
        invites = (await bob.sync(since=since, remember=False))["rooms"]["invite"]
        assert list(invites) == [room_id]
    rooms = (await bob.ok("GET", "/initialSync"))["rooms"]
    assert [room["room_id"] for room in rooms] == [room_id]


async def test_receipts_and_typing_are_hidden(server: Running) -> None:
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    room_id = await room_of(alice, bob, carol)
    event_id = await carol.say(room_id, "hello")
    await ignore(bob, alice)
    await bob.sync()
    for person in (alice, carol):
        await person.ok("PUT", of(room_id, f"typing/{person.user_id}"), body={"typing": True})
        path = of(room_id, f"receipt/m.read/{quote(event_id, safe='')}")
        await person.ok("POST", path, body={})
    for since in (bob.since, None):
        told = ephemeral(await bob.sync(since=since, remember=False), room_id)
        assert told["m.typing"] == {"user_ids": [carol.user_id]}
        assert list(told["m.receipt"][event_id]["m.read"]) == [carol.user_id]


async def test_what_they_say_is_not_unread(server: Running) -> None:
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    room_id = await room_of(alice, bob, carol)
    await ignore(bob, alice)
    await alice.say(room_id, "hidden")
    await carol.say(room_id, "shown")
    room = (await bob.sync(since=None))["rooms"]["join"][room_id]
    assert room["unread_notifications"]["notification_count"] == 1


async def test_nobody_ignores_themselves(server: Running) -> None:
    alice = await server.person("alice")
    room_id = await room_of(alice)
    await ignore(alice, alice)
    await alice.sync()
    await alice.say(room_id, "hello")
    room = (await alice.sync())["rooms"]["join"][room_id]
    assert texts(room["timeline"]["events"]) == ["hello"]


@pytest.mark.parametrize("content", [{}, {"ignored_users": []}, {"ignored_users": {"x": 1}}])
async def test_a_list_that_makes_no_sense_ignores_nobody(server: Running, content: Any) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await room_of(alice, bob)
    path = f"/user/{bob.user_id}/account_data/m.ignored_user_list"
    await bob.ok("PUT", path, body=content)
    await bob.sync()
    await alice.say(room_id, "hello")
    room = (await bob.sync())["rooms"]["join"][room_id]
    assert texts(room["timeline"]["events"]) == ["hello"]
