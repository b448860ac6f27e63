"""Connections: what is told to whom, what is lost on the way, and what is too much."""

import asyncio
from typing import Any

import pytest

from homeserver.errors import MatrixError
from homeserver.streams.sliding.connections import (
    MAX_PER_DEVICE,
    Connections,
    RoomMembers,
    Sent,
    State,
)
from homeserver.streams.tokens import SlidingToken
from storage.schema import JOIN
from tests.serving import Running
from tests.sliding.client import EXTENSIONS, PATH, Sliding, texts, window


async def test_an_answer_that_is_lost_is_told_again(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    client = Sliding(alice, {"all": window(limit=5)})
    first = (await client.ask()).body
    client.take(first)
    await alice.say(room, "one")
    lost = (await client.ask()).body
    await alice.say(room, "two")
    again = (await client.ask()).body
    assert texts(lost["rooms"][room]) == ["one"]
    assert texts(again["rooms"][room]) == ["one", "two"]
    client.take(again)
    reply = await client.ask(pos=lost["pos"])
    assert reply.errcode == "M_UNKNOWN_POS", "the client has given that answer up"
    reply = await client.ask(pos=first["pos"])
    assert reply.status == 200, "what came with the last one may have been lost"
    assert texts(reply.body["rooms"][room]) == ["one", "two"]
    client.take(reply.body)
    await client.sync()
    reply = await client.ask(pos=first["pos"])
    assert (reply.status, reply.errcode) == (400, "M_UNKNOWN_POS")


async def test_the_first_answer_may_be_lost(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    client = Sliding(alice, {"all": window()})
    await client.ask()
    assert room in (await client.sync())["rooms"]


async def test_connections_know_nothing_of_each_other(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    one = Sliding(alice, {"all": window()}, conn_id="one")
    two = Sliding(alice, {"all": window()}, conn_id="two")
    assert room in (await one.sync())["rooms"]
    assert room in (await two.sync())["rooms"]
    await alice.say(room, "hello")
    assert room in (await one.sync())["rooms"]
    assert room in (await two.sync())["rooms"]
    two.pos = one.pos
    assert (await two.ask()).errcode == "M_UNKNOWN_POS"


async def test_a_request_waits_for_what_it_asks_for(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room, other = await alice.create_room(preset="public_chat"), await alice.create_room()
    await bob.join(room)
    client = Sliding(alice, subscriptions={room: {"timeline_limit": 5, "required_state": []}})
    await client.sync()
    waiting = asyncio.create_task(client.sync(timeout=30_000))
    await server.parked()
    await alice.say(other, "not asked for")
    await server.parked()
    assert not waiting.done()
    await bob.say(room, "asked for")
    assert texts((await waiting)["rooms"][room]) == ["asked for"]

    before = client.pos
    waiting = asyncio.create_task(client.sync(timeout=30_000))
    await server.parked()
    await server.clock.advance(30)
    assert (await waiting)["rooms"] == {}
    assert client.pos == before, "nothing has moved"


async def test_a_first_request_does_not_wait(server: Running) -> None:
    alice = await server.person("alice")
    answer = await Sliding(alice, {"all": window()}).sync(timeout=30_000)
    assert answer["rooms"] == {}
    assert answer["lists"] == {"all": {"count": 0}}


async def test_a_request_that_is_followed_by_another_takes_nothing_from_it(
    server: Running,
) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    client = Sliding(alice, {"all": window()})
    await client.sync()
    old = asyncio.create_task(client.ask(timeout=30_000))
    await server.parked(1)
    new = asyncio.create_task(client.sync(timeout=30_000))
    # Who gives a request up has it answered, whether it still listens or not.
    assert (await old).body["rooms"] == {}
    await server.parked(1)
    await bob.say(room, "hello")
    assert texts((await new)["rooms"][room]) == ["hello"]
    await bob.say(room, "more")
    assert texts((await client.sync())["rooms"][room]) == ["more"]


async def test_a_connection_that_is_begun_anew_ends_what_waits_on_it(server: Running) -> None:
    alice = await server.person("alice")
    await alice.create_room()
    client = Sliding(alice, {"all": window()})
    await client.sync()
    old = asyncio.create_task(client.ask(timeout=30_000))
    await server.parked(1)
    anew = Sliding(alice, {"all": window()})
    assert (await anew.sync())["rooms"]
    assert (await old).body["rooms"] == {}


def test_the_members_that_are_remembered_of_a_room_are_bounded() -> None:
    members = RoomMembers(frozenset())
    for start in range(0, 5_000, 700):
        members.sent(1, 0, [f"@u{number}:b.example" for number in range(start, start + 700)])
        assert 0 < len(members.users) <= 200


async def test_after_a_restart_clients_begin_anew(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    client = Sliding(alice, {"all": window()}, extensions=dict(EXTENSIONS))
    await client.sync()
    await server.restart()
    reply = await client.ask()
    assert (reply.status, reply.errcode) == (400, "M_UNKNOWN_POS")
    client.pos = None
    answer = await client.sync()
    assert answer["rooms"][room]["initial"] is True
    assert client.extensions["to_device"]["since"], "messages go on where they were"


async def test_an_empty_request_costs_no_statement(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await server.person("alice")
    for _ in range(3):
        await alice.create_room()
    client = Sliding(alice, {"all": window((0, 19))}, extensions=dict(EXTENSIONS))
    await client.sync()
    await client.sync()
    statements: list[str] = []
    database = server.app.services.sliding_sync._desk._database  # noqa: SLF001
    for name in ("fetch", "scan"):
        real = getattr(database, name)

        async def counted(text: str, *args: Any, real: Any = real) -> Any:
            statements.append(text)
            return await real(text, *args)

        monkeypatch.setattr(database, name, counted)
    await client.sync()
    assert statements == []


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({"lists": {"a": {"timeline_limit": 1, "ranges": [[2, 1]]}}}, "M_INVALID_PARAM"),
        ({"lists": {"a": {"timeline_limit": 1, "ranges": [[-1, 1]]}}}, "M_BAD_JSON"),
        ({"lists": {"a": {"timeline_limit": 1, "ranges": [[1]]}}}, "M_BAD_JSON"),
        ({"lists": {"a": {"timeline_limit": 1, "ranges": [[0, 1]] * 101}}}, "M_INVALID_PARAM"),
        ({"lists": {"a": {"required_state": []}}}, "M_BAD_JSON"),
        ({"lists": {"a": {"timeline_limit": -1}}}, "M_BAD_JSON"),
        ({"lists": {"a": {"timeline_limit": 1001}}}, "M_INVALID_PARAM"),
        (
            {"lists": {"a": {"timeline_limit": 1, "required_state": [["m.room.name"]]}}},
            "M_BAD_JSON",
        ),
        (
            {"lists": {"a": {"timeline_limit": 1, "required_state": [["a", "b"]] * 1001}}},
            "M_INVALID_PARAM",
        ),
        ({"lists": {"a": {"timeline_limit": 1, "filters": {"is_dm": 1}}}}, "M_BAD_JSON"),
        *(
            (
                {"lists": {"a": {"timeline_limit": 1, "filters": {name: ["x"] * 1001}}}},
                "M_INVALID_PARAM",
            )
            for name in ("spaces", "room_types", "not_room_types", "tags", "not_tags")
        ),
        ({"lists": {f"{n}": {"timeline_limit": 1} for n in range(10_000)}}, "M_INVALID_PARAM"),
        ({"lists": {"a" * 300: {"timeline_limit": 1}}}, "M_INVALID_PARAM"),
        ({"room_subscriptions": {"!a:b": {}}}, "M_BAD_JSON"),
        (
            {"room_subscriptions": {f"!{n}:b": {"timeline_limit": 1} for n in range(5001)}},
            "M_INVALID_PARAM",
        ),
        ({"conn_id": "c" * 300}, "M_INVALID_PARAM"),
        ({"conn_id": 7}, "M_BAD_JSON"),
        ({"pos": "s72594_4483_1934"}, "M_UNKNOWN_POS"),
        ({"timeout": -1}, "M_BAD_JSON"),
        ({"set_presence": "asleep"}, "M_BAD_JSON"),
        ({"extensions": {"to_device": {"enabled": True, "since": "12"}}}, "M_INVALID_PARAM"),
        ({"extensions": {"to_device": True}}, "M_BAD_JSON"),
        ([], "M_BAD_JSON"),
    ],
)
async def test_bad_input_is_refused(server: Running, body: Any, errcode: str) -> None:
    alice = await server.person("alice")
    reply = await alice.refused(errcode, "POST", PATH, body=body)
    assert reply.status == 400
    assert len(server.app.services.sliding_sync.connections) == 0


async def test_only_users_are_answered(server: Running) -> None:
    reply = await server.request("POST", PATH, body={})
    assert (reply.status, reply.errcode) == (401, "M_MISSING_TOKEN")


async def test_what_is_unknown_is_passed_over(server: Running) -> None:
    alice = await server.person("alice")
    body = {
        "lists": {"a": {"timeline_limit": 1, "filters": {"unheard": 1}, "sort": ["by_name"]}},
        "extensions": {"unheard_of": {"enabled": True}},
        "txn_id": "mine",
    }
    answer = await alice.ok("POST", PATH, body=body)
    # A client that hears its name again leaves out of further requests what it has asked for.
    assert "txn_id" not in answer


async def test_huge_ranges_cost_what_there_is(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    most = 2**53 - 1
    client = Sliding(alice, {f"{n}": window(*[(n, most)] * 100) for n in range(100)})
    answer = await client.sync()
    assert set(answer["rooms"]) == {room}


async def test_a_device_has_few_connections(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    await alice.create_room()
    safe = Sliding(bob, {"all": window()})
    await safe.sync()
    clients = [Sliding(alice, {"all": window()}, conn_id=f"{n}") for n in range(60)]
    for client in clients:
        await client.sync()
    connections = server.app.services.sliding_sync.connections
    assert len(connections) == MAX_PER_DEVICE + 1
    assert connections.rooms == MAX_PER_DEVICE
    assert (await clients[0].ask()).errcode == "M_UNKNOWN_POS"
    assert (await clients[-1].ask()).status == 200
    assert (await safe.ask()).status == 200


def test_all_connections_together_keep_so_many_rooms() -> None:
    connections = Connections("a", max_rooms=100)
    state = State(rooms={nid: Sent(JOIN, 1) for nid in range(30)})
    offered = []
    for user in range(10):
        key = (user, 1, "main")
        offered.append(connections.offer(key, connections.begin(key), state))
        assert connections.rooms <= 100
    assert len(connections) == 3
    key = (7, 1, "main")
    connections.offer(key, connections.resume(key, SlidingToken("a", offered[7].number)), state)
    assert connections.rooms == 90, "what the client had and has, and one other"
    with pytest.raises(MatrixError):
        connections.resume((8, 1, "main"), SlidingToken("a", offered[8].number))
    connections.resume((9, 1, "main"), SlidingToken("a", offered[9].number))
    assert connections.begin(key).size == 0
    assert connections.rooms == 30


async def test_rooms_beyond_an_answers_bound_come_with_the_next(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.streams.sliding.answering.MAX_ROOMS", 2)
    alice = await server.person("alice")
    rooms = [await alice.create_room() for _ in range(5)]
    client = Sliding(alice, {"all": window(limit=1)})
    told = [set((await client.sync(timeout=30_000))["rooms"]) for _ in range(3)]
    assert told == [{rooms[4], rooms[3]}, {rooms[2], rooms[1]}, {rooms[0]}]
    for room in rooms:
        await alice.say(room, "hello")
    told = [set((await client.sync(timeout=30_000))["rooms"]) for _ in range(3)]
    assert set().union(*told) == set(rooms)
    assert all(len(some) <= 2 for some in told)
    assert all(held.events for held in client.rooms.values())
    assert (await client.sync())["rooms"] == {}
