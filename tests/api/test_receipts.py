"""Receipts, read markers and typing."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from tests.serving import Person, Running


def in_room(room_id: str, rest: str) -> str:
    return f"/rooms/{quote(room_id, safe='')}/{rest}"


async def read(
    person: Person, room_id: str, event_id: str, kind: str = "m.read", **body: Any
) -> None:
    path = in_room(room_id, f"receipt/{kind}/{quote(event_id, safe='')}")
    await person.ok("POST", path, body=body)


def ephemeral(answer: Any, room_id: str, type_: str) -> Any:
    room = answer.get("rooms", {}).get("join", {}).get(room_id, {})
    for event in room.get("ephemeral", {}).get("events", ()):
        if event["type"] == type_:
            return event["content"]
    return None


async def two_in_a_room(server: Running) -> tuple[Person, Person, str]:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    for person in (alice, bob):
        await person.sync()
    return alice, bob, room_id


async def fully_read(person: Person, room_id: str) -> str:
    path = f"/user/{person.user_id}/rooms/{quote(room_id, safe='')}/account_data/m.fully_read"
    return str((await person.ok("GET", path))["event_id"])


async def test_a_receipt_is_told_to_the_room(server: Running) -> None:
    alice, bob, room_id = await two_in_a_room(server)
    event_id = await alice.say(room_id, "hello")
    await read(bob, room_id, event_id)
    ts = server.clock.now_ms()
    expected = {event_id: {"m.read": {bob.user_id: {"ts": ts}}}}
    assert ephemeral(await alice.sync(), room_id, "m.receipt") == expected
    assert ephemeral(await bob.sync(), room_id, "m.receipt") == expected
    assert ephemeral(await alice.sync(since=None), room_id, "m.receipt") == expected


async def test_a_private_receipt_is_told_to_nobody_else(server: Running) -> None:
    alice, bob, room_id = await two_in_a_room(server)
    event_id = await alice.say(room_id, "hello")
    await alice.sync()
    await read(bob, room_id, event_id, "m.read.private")
    assert ephemeral(await bob.sync(), room_id, "m.receipt") == {
        event_id: {"m.read.private": {bob.user_id: {"ts": server.clock.now_ms()}}}
    }
    for since in (alice.since, None):
        answer = await alice.sync(since=since, remember=False)
        assert ephemeral(answer, room_id, "m.receipt") is None


async def test_receipts_move_forward_only(server: Running) -> None:
    alice, bob, room_id = await two_in_a_room(server)
    first, second = [await alice.say(room_id, text) for text in ("one", "two")]
    await read(bob, room_id, second)
    await alice.sync()
    for event_id in (first, second):
        await read(bob, room_id, event_id)
    assert ephemeral(await alice.sync(), room_id, "m.receipt") is None
    answer = await alice.sync(since=None)
    assert list(ephemeral(answer, room_id, "m.receipt")) == [second]


async def test_receipts_survive_a_restart(server: Running) -> None:
    alice, bob, room_id = await two_in_a_room(server)
    first, second = [await alice.say(room_id, text) for text in ("one", "two")]
    await read(bob, room_id, second)
    await server.restart()
    await read(bob, room_id, first)
    answer = await alice.sync(since=None)
    assert list(ephemeral(answer, room_id, "m.receipt")) == [second]


async def test_at_once_the_furthest_stays(server: Running) -> None:
    alice, bob, room_id = await two_in_a_room(server)
    events = [await alice.say(room_id, str(number)) for number in range(8)]
    await asyncio.gather(*(read(bob, room_id, event_id) for event_id in reversed(events)))
    answer = await alice.sync(since=None)
    assert list(ephemeral(answer, room_id, "m.receipt")) == [events[-1]]


async def test_each_thread_has_a_receipt_of_its_own(server: Running) -> None:
    alice, bob, room_id = await two_in_a_room(server)
    root = await alice.say(room_id, "root")
    relation = {"rel_type": "m.thread", "event_id": root}
    reply = await alice.send(room_id, "m.room.message", {"body": "x", "m.relates_to": relation})
    edit = {"rel_type": "m.replace", "event_id": reply}
    edited = await alice.send(room_id, "m.room.message", {"body": "y", "m.relates_to": edit})
    reaction = {"rel_type": "m.annotation", "event_id": root, "key": "+"}
    reacted = await alice.send(room_id, "m.reaction", {"m.relates_to": reaction})
    await read(bob, room_id, root)
    await read(bob, room_id, edited, thread_id=root)
    await read(bob, room_id, reacted, thread_id="main")
    receipts = ephemeral(await alice.sync(), room_id, "m.receipt")
    ts = server.clock.now_ms()
    assert {event_id: kinds["m.read"][bob.user_id] for event_id, kinds in receipts.items()} == {
        root: {"ts": ts},
        edited: {"ts": ts, "thread_id": root},
        reacted: {"ts": ts, "thread_id": "main"},
    }
    await read(bob, room_id, root, thread_id="main")
    for event_id, thread_id in ((reply, "main"), (reacted, root), (edited, edited[:-1])):
        path = in_room(room_id, f"receipt/m.read/{quote(event_id, safe='')}")
        await bob.refused("M_INVALID_PARAM", "POST", path, body={"thread_id": thread_id})


async def test_a_redacted_event_stays_in_its_thread(server: Running) -> None:
    alice, bob, room_id = await two_in_a_room(server)
    root = await alice.say(room_id, "root")
    relation = {"rel_type": "m.thread", "event_id": root}
    reply = await alice.send(room_id, "m.room.message", {"body": "x", "m.relates_to": relation})
    await alice.ok("PUT", in_room(room_id, f"redact/{quote(reply, safe='')}/t1"), body={})
    await read(bob, room_id, reply, thread_id=root)


async def test_two_receipts_of_one_event_are_both_told(server: Running) -> None:
    alice, bob, room_id = await two_in_a_room(server)
    event_id = await alice.say(room_id, "hello")
    await read(bob, room_id, event_id)
    await read(alice, room_id, event_id)
    kinds = ephemeral(await alice.sync(), room_id, "m.receipt")[event_id]
    assert set(kinds["m.read"]) == {alice.user_id, bob.user_id}


@pytest.mark.parametrize(
    ("kind", "body", "errcode"),
    [
        ("m.nonsense", {}, "M_INVALID_PARAM"),
        ("m.read", {"thread_id": ""}, "M_INVALID_PARAM"),
        ("m.read", {"thread_id": 1}, "M_INVALID_PARAM"),
        ("m.read", {"thread_id": None}, "M_INVALID_PARAM"),
        ("m.read", {"thread_id": "nonsense"}, "M_INVALID_PARAM"),
        ("m.fully_read", {"thread_id": "main"}, "M_INVALID_PARAM"),
        ("m.read", [], "M_BAD_JSON"),
    ],
)
async def test_malformed_receipts(server: Running, kind: str, body: Any, errcode: str) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    event_id = await alice.say(room_id, "hello")
    path = in_room(room_id, f"receipt/{kind}/{quote(event_id, safe='')}")
    assert (await alice.refused(errcode, "POST", path, body=body)).status == 400


async def test_a_receipt_needs_no_body(server: Running) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    event_id = await alice.say(room_id, "hello")
    await alice.ok("POST", in_room(room_id, f"receipt/m.read/{quote(event_id, safe='')}"))


async def test_events_must_be_the_rooms_own(server: Running) -> None:
    alice = await server.person("alice")
    room_id, other = await alice.create_room(), await alice.create_room()
    elsewhere = await alice.say(other, "hello")
    for event_id in (elsewhere, "$unknown"):
        path = in_room(room_id, f"receipt/m.read/{quote(event_id, safe='')}")
        await alice.refused("M_NOT_FOUND", "POST", path, body={})
        for kind in ("m.fully_read", "m.read", "m.read.private"):
            await alice.refused(
                "M_NOT_FOUND", "POST", in_room(room_id, "read_markers"), body={kind: event_id}
            )
    await alice.refused("M_INVALID_PARAM", "POST", in_room(room_id, "receipt/m.read/x"), body={})


async def test_only_members_send_receipts_and_type(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await alice.create_room()
    event_id = await alice.say(room_id, "hello")
    for person, room in ((bob, room_id), (alice, "!unknown:test.example")):
        receipt = in_room(room, f"receipt/m.read/{quote(event_id, safe='')}")
        await person.refused("M_FORBIDDEN", "POST", receipt, body={})
        await person.refused("M_FORBIDDEN", "POST", in_room(room, "read_markers"), body={})
        typing = in_room(room, f"typing/{person.user_id}")
        await person.refused("M_FORBIDDEN", "PUT", typing, body={"typing": True})


async def test_read_markers_move_all_at_once(server: Running) -> None:
    alice, bob, room_id = await two_in_a_room(server)
    first, second = [await alice.say(room_id, text) for text in ("one", "two")]
    path = in_room(room_id, "read_markers")
    body = {"m.fully_read": first, "m.read": second, "m.read.private": second}
    assert await bob.ok("POST", path, body=body) == {}
    assert await fully_read(bob, room_id) == first
    answer = await bob.sync()
    receipts = ephemeral(answer, room_id, "m.receipt")[second]
    assert set(receipts) == {"m.read", "m.read.private"}
    events = answer["rooms"]["join"][room_id]["account_data"]["events"]
    assert events == [{"type": "m.fully_read", "content": {"event_id": first}}]
    assert set(ephemeral(await alice.sync(), room_id, "m.receipt")[second]) == {"m.read"}


async def test_the_marker_moves_forward_only(server: Running) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    first, second = [await alice.say(room_id, text) for text in ("one", "two")]
    await read(alice, room_id, second, "m.fully_read")
    await read(alice, room_id, first, "m.fully_read")
    assert await fully_read(alice, room_id) == second


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({"m.fully_read": 1}, "M_BAD_JSON"),
        ({"m.read": "not an event"}, "M_INVALID_PARAM"),
        ([], "M_BAD_JSON"),
    ],
)
async def test_malformed_markers(server: Running, body: Any, errcode: str) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    await alice.refused(errcode, "POST", in_room(room_id, "read_markers"), body=body)


async def test_no_marker_of_several_moves_if_one_is_wrong(server: Running) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    event_id = await alice.say(room_id, "hello")
    body = {"m.read": event_id, "m.fully_read": "$unknown"}
    await alice.refused("M_NOT_FOUND", "POST", in_room(room_id, "read_markers"), body=body)
    assert ephemeral(await alice.sync(since=None), room_id, "m.receipt") is None


async def test_typing_is_told_and_ends(server: Running) -> None:
    alice, bob, room_id = await two_in_a_room(server)
    path = in_room(room_id, f"typing/{bob.user_id}")
    await bob.ok("PUT", path, body={"typing": True, "timeout": 10_000})
    answer = await alice.sync(timeout=30_000)
    assert ephemeral(answer, room_id, "m.typing") == {"user_ids": [bob.user_id]}
    await server.clock.advance(11)
    answer = await alice.sync(timeout=30_000)
    assert ephemeral(answer, room_id, "m.typing") == {"user_ids": []}
    await bob.ok("PUT", path, body={"typing": True})
    await alice.sync(timeout=30_000)
    await bob.ok("PUT", path, body={"typing": False})
    answer = await alice.sync(timeout=30_000)
    assert ephemeral(answer, room_id, "m.typing") == {"user_ids": []}


async def test_who_leaves_types_no_longer(server: Running) -> None:
    alice, bob, room_id = await two_in_a_room(server)
    await bob.ok("PUT", in_room(room_id, f"typing/{bob.user_id}"), body={"typing": True})
    await alice.sync()
    await bob.ok("POST", in_room(room_id, "leave"), body={})
    assert ephemeral(await alice.sync(), room_id, "m.typing") == {"user_ids": []}


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"typing": "yes"}, "M_BAD_JSON"),
        ({"typing": True, "timeout": "long"}, "M_BAD_JSON"),
        ({"typing": True, "timeout": 2**60}, "M_BAD_JSON"),
        ([], "M_BAD_JSON"),
    ],
)
async def test_malformed_typing(server: Running, body: Any, errcode: str) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    path = in_room(room_id, f"typing/{alice.user_id}")
    assert (await alice.refused(errcode, "PUT", path, body=body)).status == 400


async def test_nobody_types_for_another(server: Running) -> None:
    alice, bob, room_id = await two_in_a_room(server)
    path = in_room(room_id, f"typing/{bob.user_id}")
    await alice.refused("M_FORBIDDEN", "PUT", path, body={"typing": True})
