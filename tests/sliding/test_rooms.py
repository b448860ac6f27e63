"""What is told of one room: timeline, state, members, counts."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from tests.serving import Person, Running
from tests.sliding.client import ALL_STATE, Sliding, state_keys, texts, window
from tests.streams.reading import ignore, invite, moved, read, redact

LAZY = [["m.room.member", "$LAZY"]]


async def _hall(server: Running, *names: str, **options: Any) -> tuple[str, list[Person]]:
    """A room in which all of these people are, the first of whom made it."""
    people = [await server.person(name) for name in names]
    room = await people[0].create_room(preset="public_chat", **options)
    for person in people[1:]:
        await person.join(room)
    return room, people


def _members(result: Any) -> set[str]:
    return {key for type_, key in state_keys(result) if type_ == "m.room.member"}


async def test_a_room_is_described_whole_and_then_by_what_changed(server: Running) -> None:
    room, (alice, bob) = await _hall(server, "alice", "bob")
    client = Sliding(alice, {"all": window(limit=1)})
    result = (await client.sync())["rooms"][room]
    assert result["joined_count"] == 2
    assert result["invited_count"] == 0
    assert "name" not in result
    assert result["heroes"] == [{"user_id": bob.user_id, "displayname": "bob"}] or result[
        "heroes"
    ] == [{"user_id": bob.user_id}]
    assert result["limited"] is True
    assert result["num_live"] == 0
    await bob.put_state(room, "m.room.member", {"membership": "join"}, bob.user_id)
    assert "joined_count" not in (await client.sync())["rooms"].get(room, {})
    await alice.put_state(room, "m.room.name", {"name": "hall"})
    await alice.put_state(room, "m.room.avatar", {"url": "mxc://test.example/a"})
    result = (await client.sync())["rooms"][room]
    assert (result["name"], result["avatar"]) == ("hall", "mxc://test.example/a")
    assert result["heroes"] == []
    assert result["num_live"] == 1
    assert "joined_count" not in result
    await alice.put_state(room, "m.room.name", {})
    await alice.put_state(room, "m.room.avatar", {})
    result = (await client.sync())["rooms"][room]
    assert result["name"] is None
    assert result["avatar"] is None
    await moved(bob, room, "leave")
    result = (await client.sync())["rooms"][room]
    assert result["joined_count"] == 1


async def test_the_bump_stamp_rises_with_messages_only(server: Running) -> None:
    room, (alice,) = await _hall(server, "alice")
    other = await alice.create_room()
    client = Sliding(alice, {"all": window(limit=3)})
    await client.sync()
    stamps = {name: held.fields["bump_stamp"] for name, held in client.rooms.items()}
    assert stamps[other] > stamps[room]
    await alice.put_state(room, "m.room.topic", {"topic": "no reason to look"})
    assert "bump_stamp" not in (await client.sync())["rooms"][room]
    await alice.say(room, "look")
    assert (await client.sync())["rooms"][room]["bump_stamp"] > stamps[other]
    await alice.say(room, "again")
    for n in range(4):
        await alice.put_state(room, "m.room.topic", {"topic": f"{n}"})
    before = client.rooms[room].fields["bump_stamp"]
    assert (await client.sync())["rooms"][room]["bump_stamp"] > before, "behind a gap, too"


async def test_counts_of_unread_are_told_as_they_change(server: Running) -> None:
    room, (alice, bob) = await _hall(server, "alice", "bob")
    client = Sliding(alice, {"all": window()})
    result = (await client.sync())["rooms"][room]
    assert (result["notification_count"], result["highlight_count"]) == (0, 0)
    content = {"msgtype": "m.text", "body": "you", "m.mentions": {"user_ids": [alice.user_id]}}
    event = await bob.send(room, "m.room.message", content)
    result = (await client.sync())["rooms"][room]
    assert (result["notification_count"], result["highlight_count"]) == (1, 1)
    await read(alice, room, event)
    result = (await client.sync())["rooms"][room]
    assert (result["notification_count"], result["highlight_count"]) == (0, 0)
    assert "timeline" not in result


@pytest.mark.parametrize(
    ("required", "expected"),
    [
        ([], set()),
        ([["m.room.name", ""]], {("m.room.name", "")}),
        ([["test.one", "*"]], {("test.one", ""), ("test.one", "x")}),
        ([["*", "x"]], {("test.one", "x"), ("test.two", "x")}),
        ([["m.room.member", "$ME"]], {("m.room.member", "@alice:test.example")}),
        ([["*", "*"], ["m.room.member", "$ME"]], "all but bob"),
        ([["*", "*"], ["m.room.member", "$LAZY"]], "all but bob"),
        ([["*", "*"]], "all"),
        ({"include": [{}]}, "all"),
        ({"include": [{"type": "test.one"}]}, {("test.one", ""), ("test.one", "x")}),
        (
            {"include": [{"type": "test.one"}], "exclude": [{"state_key": "x"}]},
            {("test.one", "")},
        ),
        ({"include": [{}], "exclude": [{}]}, set()),
        (
            {
                "include": [{}],
                "exclude": [{"type": "m.room.member", "state_key": "@bob:test.example"}],
            },
            "all but bob",
        ),
        ({"lazy_members": True}, {("m.room.member", "@alice:test.example")}),
    ],
)
async def test_the_state_is_what_is_required(server: Running, required: Any, expected: Any) -> None:
    room, (alice, bob) = await _hall(server, "alice", "bob", name="hall")
    for type_, key in (("test.one", ""), ("test.one", "x"), ("test.two", "x")):
        await alice.put_state(room, type_, {}, key)
    await alice.say(room, "hello")
    state = await alice.ok("GET", f"/rooms/{quote(room)}/state")
    every = {(event["type"], event["state_key"]) for event in state}
    if expected == "all":
        expected = every
    elif expected == "all but bob":
        expected = every - {("m.room.member", bob.user_id)}
    result = (await Sliding(alice, {"all": window(limit=1, state=required)}).sync())["rooms"][room]
    assert state_keys(result) == expected


async def test_members_are_told_as_the_timeline_needs_them(server: Running) -> None:
    room, (alice, bob, carol, dan) = await _hall(server, "alice", "bob", "carol", "dan")
    await bob.say(room, "one")
    client = Sliding(alice, {"all": window(limit=2, state=LAZY)})
    result = (await client.sync())["rooms"][room]
    assert _members(result) == {bob.user_id, dan.user_id}
    await bob.say(room, "two")
    await carol.say(room, "three")
    result = (await client.sync())["rooms"][room]
    assert _members(result) == {carol.user_id}, "bob is known"
    await moved(alice, room, "kick", dan)
    result = (await client.sync())["rooms"][room]
    assert _members(result) == {dan.user_id, alice.user_id}, "sender and target"
    for n in range(3):
        await bob.say(room, f"{n}")
    result = (await client.sync())["rooms"][room]
    assert result["limited"] is True
    assert _members(result) == {bob.user_id}, "behind a gap the client has forgotten all"


async def test_more_of_the_timeline_is_told_when_more_is_asked_for(server: Running) -> None:
    room, (alice,) = await _hall(server, "alice")
    for n in range(6):
        await alice.say(room, f"{n}")
    client = Sliding(alice, {"all": window(limit=1, state=LAZY)})
    assert texts((await client.sync())["rooms"][room]) == ["5"]
    client.subscriptions = {room: {"timeline_limit": 4, "required_state": [["m.room.create", ""]]}}
    answer = await client.sync(timeout=30_000)
    result = answer["rooms"][room]
    assert texts(result) == ["2", "3", "4", "5"]
    assert result["unstable_expanded_timeline"] is True
    assert result["expanded_timeline"] is True
    assert "initial" not in result
    assert result["limited"] is True
    assert result["num_live"] == 0
    assert state_keys(result) == {("m.room.create", ""), ("m.room.member", alice.user_id)}
    await alice.say(room, "6")
    result = (await client.sync())["rooms"][room]
    assert texts(result) == ["6"]
    assert "unstable_expanded_timeline" not in result
    client.subscriptions = {}
    await alice.say(room, "7")
    assert texts((await client.sync())["rooms"][room]) == ["7"]
    client.subscriptions = {room: {"timeline_limit": 4, "required_state": []}}
    assert (await client.sync())["rooms"] == {}, "the last four were told"
    client.subscriptions = {room: {"timeline_limit": 100, "required_state": []}}
    result = (await client.sync())["rooms"][room]
    assert texts(result) == [f"{n}" for n in range(8)]
    assert result["limited"] is False
    client.subscriptions = {room: {"timeline_limit": 200, "required_state": []}}
    assert (await client.sync())["rooms"] == {}, "there is no more"


async def test_a_gap_can_be_filled_from_its_token(server: Running) -> None:
    room, (alice,) = await _hall(server, "alice")
    client = Sliding(alice, {"all": window(limit=2)})
    await client.sync()
    sent = [await alice.say(room, f"{n}") for n in range(5)]
    since = client.pos
    result = (await client.sync())["rooms"][room]
    assert result["limited"] is True
    assert texts(result) == ["3", "4"]
    page = await alice.ok(
        "GET",
        f"/rooms/{quote(room)}/messages",
        query={"dir": "b", "from": result["prev_batch"], "to": since, "limit": 50},
    )
    assert [event["event_id"] for event in page["chunk"]] == sent[2::-1], "a pos is a token, too"


async def test_no_event_is_wanted_but_what_has_changed(server: Running) -> None:
    room, (alice,) = await _hall(server, "alice")
    client = Sliding(alice, {"all": window(limit=0, state=[["m.room.topic", ""]])})
    result = (await client.sync())["rooms"][room]
    assert result["timeline"] == []
    await alice.put_state(room, "m.room.topic", {"topic": "t"})
    result = (await client.sync())["rooms"][room]
    assert result["timeline"] == []
    assert state_keys(result) == {("m.room.topic", "")}


async def test_what_was_hidden_from_a_user_stays_hidden(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(
        preset="private_chat",
        initial_state=[
            {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
        ],
    )
    await alice.say(room, "secret")
    await invite(alice, room, bob)
    await bob.join(room)
    await alice.say(room, "open")
    client = Sliding(bob, {"all": window(limit=50)})
    result = (await client.sync())["rooms"][room]
    assert texts(result) == ["open"]
    await moved(alice, room, "ban", bob)
    await alice.say(room, "secret again")
    await moved(alice, room, "unban", bob)
    result = (await client.sync())["rooms"][room]
    assert texts(result) == []
    assert "secret" not in json.dumps(result)
    client.subscriptions = {room: {"timeline_limit": 100, "required_state": ALL_STATE}}
    assert "secret" not in json.dumps(await client.sync())


async def test_ignored_users_write_nothing(server: Running) -> None:
    room, (alice, bob) = await _hall(server, "alice", "bob")
    await ignore(alice, bob)
    client = Sliding(alice, {"all": window()})
    await client.sync()
    await bob.say(room, "noise")
    await alice.say(room, "mine")
    assert texts((await client.sync())["rooms"][room]) == ["mine"]


async def test_who_comes_back_is_told_the_room_afresh(server: Running) -> None:
    room, (alice, bob) = await _hall(server, "alice", "bob")
    client = Sliding(bob, {"all": window(limit=50, state=ALL_STATE)})
    await client.sync()
    await moved(bob, room, "leave")
    await alice.put_state(room, "m.room.topic", {"topic": "meanwhile"})
    await bob.join(room)
    result = (await client.sync())["rooms"][room]
    assert result["initial"] is True
    assert ("m.room.topic", "") in state_keys(result)


async def test_a_redaction_is_told_as_an_event(server: Running) -> None:
    room, (alice,) = await _hall(server, "alice")
    client = Sliding(alice, {"all": window()})
    event = await alice.say(room, "wrong")
    await client.sync()
    redaction = await redact(alice, room, event)
    result = (await client.sync())["rooms"][room]
    assert [event["event_id"] for event in result["timeline"]] == [redaction]


async def test_the_sender_sees_its_transaction(server: Running) -> None:
    room, (alice,) = await _hall(server, "alice")
    client = Sliding(alice, {"all": window()})
    await client.sync()
    await alice.say(room, "hello", "mine")
    (event,) = (await client.sync())["rooms"][room]["timeline"]
    assert event["unsigned"]["transaction_id"] == "mine"


async def test_state_that_changed_while_nobody_required_it_is_told_when_somebody_does(
    server: Running,
) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(name="old")
    client = Sliding(alice, {"all": window(state=ALL_STATE)})
    await client.sync()
    client.lists = {"all": window()}
    name = await alice.put_state(room, "m.room.name", {"name": "new"})
    assert state_keys((await client.sync())["rooms"][room]) == set()
    client.lists = {"all": window(state=ALL_STATE)}
    await client.sync()
    assert client.rooms[room].state["m.room.name", ""] == name
