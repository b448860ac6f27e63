"""The requests that Element X makes, one after the other: what its SDK reads must be there.

Taken from how the rust SDK's room list and encryption loops ask (`room_list_service`,
`encryption_sync_service`): two connections at a time, a window that grows until it holds all
rooms, a subscription to the room that is open.
"""

import asyncio
from typing import Any
from urllib.parse import quote

from tests.serving import Person, Running
from tests.sliding.client import PATH, Sliding, state_keys, texts

STATE = [
    ["m.room.name", ""],
    ["m.room.encryption", ""],
    ["m.room.member", "$LAZY"],
    ["m.room.member", "$ME"],
    ["m.room.topic", ""],
    ["m.room.avatar", ""],
    ["m.room.canonical_alias", ""],
    ["m.room.power_levels", ""],
    ["org.matrix.msc3401.call.member", "*"],
    ["m.room.join_rules", ""],
    ["m.room.tombstone", ""],
    ["m.room.create", ""],
    ["m.room.history_visibility", ""],
    ["io.element.functional_members", ""],
    ["m.space.parent", "*"],
    ["m.space.child", "*"],
    ["org.matrix.msc3672.beacon_info", "*"],
]
OPEN = {"timeline_limit": 20, "required_state": [*STATE, ["m.room.pinned_events", ""]]}
THREADS = "io.element.msc4308.thread_subscriptions"
EXTENSIONS = {
    "account_data": {"enabled": True},
    "receipts": {"enabled": True, "rooms": ["*"]},
    "typing": {"enabled": True},
    THREADS: {"enabled": True, "limit": 10},
}


def _rooms(end: int) -> dict[str, Any]:
    return {
        "all_rooms": {
            "ranges": [[0, end]],
            "timeline_limit": 1,
            "required_state": STATE,
            "filters": {},
        }
    }


def _room_list(person: Person) -> Sliding:
    return Sliding(person, _rooms(19), extensions=dict(EXTENSIONS), conn_id="room-list")


def _encryption(person: Person) -> Sliding:
    asked = {"to_device": {"enabled": True}, "e2ee": {"enabled": True}}
    return Sliding(person, extensions=asked, conn_id="encryption")


async def test_the_room_list_grows_until_it_waits(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    rooms = [await alice.create_room(name=f"{n}", preset="public_chat") for n in range(23)]
    for room in (rooms[0], rooms[-1]):
        await bob.join(room)
    asked = await bob.create_room(invite=[alice.user_id], is_direct=True)
    client = _room_list(alice)

    # Without a timeout: it wants its first rooms at once.
    first = (await client.ask(txn_id="one")).body
    client.take(first)
    assert len(first["rooms"]) == 20
    assert first["lists"] == {"all_rooms": {"count": 24}}
    assert "txn_id" not in first, "it would take its subscriptions for remembered"
    invite = first["rooms"][asked]
    assert {event["type"] for event in invite["invite_state"]} >= {
        "m.room.create",
        "m.room.member",
    }
    newest = first["rooms"][rooms[-1]]
    assert newest["initial"] is True
    assert len(newest["timeline"]) == 1
    assert newest["name"] == "22"
    assert newest["joined_count"] == 2
    assert newest["bump_stamp"] > 0
    assert newest["prev_batch"]
    assert newest["notification_count"] == newest["highlight_count"] == 0
    assert state_keys(newest) >= {
        ("m.room.create", ""),
        ("m.room.power_levels", ""),
        ("m.room.member", alice.user_id),
    }
    assert first["extensions"]["account_data"]["global"]

    client.lists = _rooms(23)
    rest = await client.sync()
    assert set(rest["rooms"]) == set(rooms) - set(first["rooms"])
    waiting = asyncio.create_task(client.sync(timeout=30_000))
    await server.parked()
    await bob.say(rooms[0], "hello")
    answer = await waiting
    assert texts(answer["rooms"][rooms[0]]) == ["hello"]
    assert answer["rooms"][rooms[0]]["num_live"] == 1
    assert ("m.room.member", bob.user_id) in client.rooms[rooms[0]].state, "who speaks is known"
    assert answer["rooms"][rooms[0]]["notification_count"] == 1


async def test_a_room_is_opened_read_and_closed(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.ok("PUT", f"/profile/{bob.user_id}/displayname", body={"displayname": "Bob"})
    await bob.join(room)
    said = [await bob.say(room, f"{n}") for n in range(30)]
    client = _room_list(alice)
    answer = await client.sync()
    assert texts(answer["rooms"][room]) == ["29"]
    assert answer["rooms"][room]["heroes"] == [{"user_id": bob.user_id, "displayname": "Bob"}], (
        "the room has no name"
    )

    # The request that waits is given up for one that subscribes.
    old = asyncio.create_task(client.ask(timeout=30_000))
    await server.parked()
    client.subscriptions = {room: OPEN}
    answer = await client.sync(timeout=30_000)
    await old
    assert texts(answer["rooms"][room]) == [f"{n}" for n in range(10, 30)]
    assert answer["rooms"][room]["unstable_expanded_timeline"] is True
    assert answer["rooms"][room]["limited"] is True

    path = f"/rooms/{quote(room, safe='')}"
    await bob.ok("PUT", f"{path}/typing/{bob.user_id}", body={"typing": True, "timeout": 20_000})
    answer = await client.sync(timeout=30_000)
    assert answer["extensions"]["typing"]["rooms"][room]["content"]["user_ids"] == [bob.user_id]
    await alice.ok("POST", f"{path}/receipt/m.read.private/{quote(said[-1], safe='')}", body={})
    answer = await client.sync(timeout=30_000)
    content = answer["extensions"]["receipts"]["rooms"][room]["content"]
    assert alice.user_id in content[said[-1]]["m.read.private"]
    assert answer["rooms"][room]["notification_count"] == 0

    client.subscriptions = {}
    await bob.say(room, "behind the closed door")
    answer = await client.sync(timeout=30_000)
    assert texts(answer["rooms"][room]) == ["behind the closed door"]
    await alice.ok("POST", f"{path}/leave", body={})
    left = (await client.sync(timeout=30_000))["rooms"][room]
    assert left["membership"] == "leave"
    own = [*left.get("required_state", ()), *left["timeline"]]
    assert any(
        event.get("state_key") == alice.user_id and event["content"]["membership"] == "leave"
        for event in own
    ), "the SDK learns from its own member event that it has left"


async def test_the_encryption_loop_runs_beside_it_and_outlives_a_restart(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    await alice.create_room()
    rooms, keys = _room_list(alice), _encryption(alice)
    await rooms.sync()
    answer = await keys.sync()
    assert (answer["lists"], answer["rooms"]) == ({}, {})
    assert answer["extensions"]["e2ee"]["device_one_time_keys_count"] == {"signed_curve25519": 0}
    assert answer["extensions"]["e2ee"]["device_unused_fallback_key_types"] == []

    async def whisper(number: int) -> None:
        body = {"messages": {alice.user_id: {"*": {"n": number}}}}
        await bob.ok("PUT", f"/sendToDevice/m.room.encrypted/{number}", body=body)

    waiting = asyncio.create_task(keys.sync(timeout=30_000))
    await server.parked()
    await whisper(1)
    events = (await waiting)["extensions"]["to_device"]["events"]
    assert [event["content"] for event in events] == [{"n": 1}]
    await server.restart()
    await whisper(2)
    for client in (rooms, keys):
        reply = await client.ask(timeout=30_000)
        assert (reply.status, reply.errcode) == (400, "M_UNKNOWN_POS")
        client.pos = None
    assert (await rooms.sync())["rooms"]
    events = (await keys.sync())["extensions"]["to_device"]["events"]
    assert [event["content"] for event in events] == [{"n": 2}]


async def test_subscriptions_to_threads_are_offered_only_where_they_work(server: Running) -> None:
    alice = await server.person("alice")
    features = (await alice.ok("GET", "/_matrix/client/versions"))["unstable_features"]
    assert features["org.matrix.msc4306"] is True
    assert features["org.matrix.simplified_msc3575"] is True
    body = {"conn_id": "room-list", "lists": {}, "extensions": {THREADS: {"enabled": True}}}
    assert (await alice.ok("POST", PATH, body=body))["extensions"] == {}
