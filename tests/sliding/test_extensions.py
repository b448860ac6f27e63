"""The extensions: messages to devices, keys, account data, receipts, typing."""

import asyncio
from typing import Any
from urllib.parse import quote

from tests.e2ee.keyed import SIGNED, keyed
from tests.serving import Person, Running
from tests.sliding.client import EXTENSIONS, Sliding, window
from tests.streams.reading import ignore, keep, moved, read, typing


def _only(*names: str) -> dict[str, Any]:
    return {name: {"enabled": True} for name in names}


async def _whisper(sender: Person, receiver: Person, number: int) -> None:
    await sender.ok(
        "PUT",
        f"/sendToDevice/test.whisper/{sender.user_id}{number}",
        body={"messages": {receiver.user_id: {receiver.device_id: {"n": number}}}},
    )


def _heard(answer: Any) -> list[int]:
    return [event["content"]["n"] for event in answer["extensions"]["to_device"]["events"]]


async def test_messages_are_told_until_they_have_arrived(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    for n in range(3):
        await _whisper(bob, alice, n)
    client = Sliding(alice, extensions=_only("to_device"))
    lost = (await client.ask()).body
    assert _heard(lost) == [0, 1, 2]
    answer = await client.sync()
    assert _heard(answer) == [0, 1, 2], "nobody said that they came"
    await _whisper(bob, alice, 3)
    lost = (await client.ask()).body
    assert _heard(lost) == [3]
    client.pos = None
    assert _heard(await client.sync()) == [3], "a new connection goes on with them"
    assert _heard(await client.sync()) == []
    anew = Sliding(alice, extensions=_only("to_device"), conn_id="new")
    assert _heard(await anew.sync()) == [], "what has arrived is gone"


async def test_messages_survive_a_restart_and_come_in_pages(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    client = Sliding(alice, extensions={"to_device": {"enabled": True, "limit": 2}})
    await client.sync()
    for n in range(5):
        await _whisper(bob, alice, n)
    assert _heard(await client.sync(timeout=30_000)) == [0, 1]
    assert _heard(await client.sync(timeout=30_000)) == [2, 3]
    await server.restart()
    client.pos = None
    assert _heard(await client.sync()) == [4]


async def test_a_message_wakes_who_waits_for_it(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    client = Sliding(alice, extensions=_only("to_device", "e2ee"), conn_id="encryption")
    await client.sync()
    waiting = asyncio.create_task(client.sync(timeout=30_000))
    await server.parked()
    await _whisper(bob, alice, 1)
    assert _heard(await waiting) == [1]
    other = Sliding(alice, {"all": window()}, conn_id="rooms")
    answer = await other.sync()
    assert answer["extensions"] == {}, "what isn't asked for isn't told"


async def test_changes_of_devices_and_the_pool_of_keys(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    client = Sliding(alice, extensions=_only("e2ee"))
    e2ee = (await client.sync())["extensions"]["e2ee"]
    assert e2ee["device_one_time_keys_count"] == {"signed_curve25519": 0}
    assert e2ee["device_unused_fallback_key_types"] == []
    assert "device_lists" not in e2ee
    waiting = asyncio.create_task(client.ask(timeout=30_000))
    await server.parked()
    await bob.join(room)
    lost = (await waiting).body
    assert lost["extensions"]["e2ee"]["device_lists"]["changed"] == [bob.user_id]
    answer = await client.sync()
    assert answer["extensions"]["e2ee"]["device_lists"]["changed"] == [bob.user_id]
    await moved(bob, room, "leave")
    answer = await client.sync()
    assert answer["extensions"]["e2ee"]["device_lists"]["left"] == [bob.user_id]
    assert "device_lists" not in (await client.sync())["extensions"]["e2ee"]


async def test_account_data(server: Running) -> None:
    alice = await server.person("alice")
    near, far = await alice.create_room(), await alice.create_room()
    await keep(alice, "test.own", {"n": 1})
    await keep(alice, "test.room", {"n": 1}, near)
    await keep(alice, "test.room", {"n": 1}, far)
    await alice.say(near, "now the first")
    client = Sliding(alice, {"all": window((0, 0))}, extensions=_only("account_data"))
    told = (await client.sync())["extensions"]["account_data"]
    assert {event["type"] for event in told["global"]} >= {"test.own", "m.push_rules"}
    assert told["rooms"] == {near: [{"type": "test.room", "content": {"n": 1}}]}
    assert (await client.sync())["extensions"] == {}
    await keep(alice, "test.own", {"n": 2})
    await keep(alice, "test.room", {"n": 2}, near)
    await keep(alice, "test.room", {"n": 2}, far)
    answer = await client.sync()
    assert answer["extensions"]["account_data"] == {
        "global": [{"type": "test.own", "content": {"n": 2}}],
        "rooms": {near: [{"type": "test.room", "content": {"n": 2}}]},
    }
    assert answer["rooms"] == {}
    client.lists = {"all": window()}
    told = (await client.sync())["extensions"]["account_data"]
    assert told["rooms"] == {far: [{"type": "test.room", "content": {"n": 2}}]}
    client.lists = {"all": window((0, 0))}
    await alice.say(near, "still the first")
    await client.sync()
    await keep(alice, "test.room", {"n": 3}, far)
    assert far not in (await client.sync())["extensions"].get("account_data", {}).get("rooms", {})
    client.lists = {"all": window()}
    told = (await client.sync())["extensions"]["account_data"]
    assert told["rooms"] == {far: [{"type": "test.room", "content": {"n": 3}}]}


async def test_receipts(server: Running) -> None:
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    await carol.join(room)
    old = await alice.say(room, "old")
    new = await alice.say(room, "new")
    await read(carol, room, old)
    await read(bob, room, new)
    await read(alice, room, old, "m.read.private")
    client = Sliding(alice, {"all": window(limit=1)}, extensions=_only("receipts"))
    told = (await client.sync())["extensions"]["receipts"]["rooms"][room]
    assert told["type"] == "m.receipt"
    assert set(told["content"]) == {new, old}
    assert set(told["content"][new]["m.read"]) == {bob.user_id}
    assert set(told["content"][old]) == {"m.read.private"}, "carol's is on no event that is told"
    await read(carol, room, new)
    answer = await client.sync()
    assert set(answer["extensions"]["receipts"]["rooms"][room]["content"][new]["m.read"]) == {
        carol.user_id
    }
    assert answer["rooms"] == {}
    latest = await bob.say(room, "latest")
    await read(alice, room, latest)
    await read(alice, room, latest, thread_id="main")
    told = (await client.sync())["extensions"]["receipts"]["rooms"][room]
    assert "thread_id" not in told["content"][latest]["m.read"][alice.user_id]
    await ignore(alice, bob)
    await client.sync()
    await read(bob, room, latest)
    assert "receipts" not in (await client.sync())["extensions"]


async def test_typing(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room, other = [await alice.create_room(preset="public_chat") for _ in range(2)]
    for name in (room, other):
        await bob.join(name)
    await typing(bob, room)
    await alice.say(room, "now the first")
    client = Sliding(alice, {"all": window((0, 0))}, extensions=_only("typing"))
    answer = await client.sync()
    assert answer["extensions"]["typing"]["rooms"] == {
        room: {"type": "m.typing", "content": {"user_ids": [bob.user_id]}}
    }
    waiting = asyncio.create_task(client.sync(timeout=30_000))
    await server.parked()
    await typing(bob, other)
    await server.parked()
    assert not waiting.done(), "outside of the window"
    await typing(bob, room, False)
    answer = await waiting
    assert answer["extensions"]["typing"]["rooms"][room]["content"]["user_ids"] == []
    assert answer["rooms"] == {}
    quiet = Sliding(alice, {"all": window()}, conn_id="quiet")
    await quiet.sync()
    waiting = asyncio.create_task(quiet.sync(timeout=30_000))
    await server.parked()
    await typing(bob, room)
    await server.parked()
    await server.clock.advance(30)
    assert (await waiting)["extensions"] == {}


async def test_extensions_may_be_for_some_rooms_only(server: Running) -> None:
    alice = await server.person("alice")
    one, two, three = [await alice.create_room() for _ in range(3)]
    for room in (one, two, three):
        await keep(alice, "test.room", {"n": 1}, room)
    tag = f"/user/{quote(alice.user_id)}/rooms/{quote(one)}/tags/u.t"
    await alice.ok("PUT", tag, body={})
    subscription = {"timeline_limit": 1, "required_state": []}
    client = Sliding(
        alice,
        {"tagged": window(tags=["u.t"])},
        {two: subscription, three: subscription},
        {"account_data": {"enabled": True, "lists": [], "rooms": [two]}},
    )
    told = (await client.sync())["extensions"]["account_data"]
    assert set(told["rooms"]) == {two}
    client.extensions = {"account_data": {"enabled": True, "lists": ["tagged"], "rooms": []}}
    told = (await client.sync())["extensions"]["account_data"]
    assert set(told["rooms"]) == {one}
    client.extensions = {"account_data": {"enabled": True, "lists": ["*"], "rooms": ["*"]}}
    told = (await client.sync())["extensions"]["account_data"]
    assert set(told["rooms"]) == {two, three}


async def test_an_extension_that_is_switched_on_later_tells_everything(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    client = Sliding(alice, {"all": window()})
    await client.sync()
    event = await alice.say(room, "hello")
    await read(bob, room, event)
    await keep(alice, "test.room", {"n": 1}, room)
    await typing(bob, room)
    await client.sync()
    client.extensions = dict(EXTENSIONS)
    told = (await client.sync(timeout=30_000))["extensions"]
    assert room in told["account_data"]["rooms"]
    assert "m.push_rules" in {event["type"] for event in told["account_data"]["global"]}
    assert event in told["receipts"]["rooms"][room]["content"]
    assert told["typing"]["rooms"][room]["content"]["user_ids"] == [bob.user_id]
    client.extensions = {}
    await client.sync()
    await keep(alice, "test.room", {"n": 2}, room)
    await client.sync()
    client.extensions = _only("account_data")
    told = (await client.sync())["extensions"]["account_data"]
    assert told["rooms"][room] == [{"type": "test.room", "content": {"n": 2}}]


async def test_the_first_device_of_a_server_keeps_its_keys(server: Running) -> None:
    """Its first token stands before all that happens on the server."""
    alice = await server.person("alice")
    client = Sliding(alice, extensions=_only("to_device", "e2ee"))
    await client.sync()
    await keyed(alice, 3)
    told = (await client.sync())["extensions"]["e2ee"]
    assert told["device_one_time_keys_count"] == {SIGNED: 3}
