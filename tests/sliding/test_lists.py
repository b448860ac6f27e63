"""Lists and subscriptions: which rooms a client is told of, in which order."""

from typing import Any
from urllib.parse import quote

from tests.serving import Running
from tests.sliding.client import Sliding, state_keys, texts, window
from tests.streams.reading import ignore, invite, keep, moved


async def test_a_client_sees_that_the_server_speaks_sliding_sync(server: Running) -> None:
    reply = await server.request("GET", "/_matrix/client/versions")
    assert reply.body["unstable_features"]["org.matrix.simplified_msc3575"] is True


async def test_a_window_holds_the_rooms_with_the_latest_events(server: Running) -> None:
    alice = await server.person("alice")
    rooms = [await alice.create_room(name=f"room {n}") for n in range(4)]
    await alice.say(rooms[1], "hello")
    client = Sliding(alice, {"all": window((0, 1), limit=1)})
    answer = await client.sync()
    assert set(answer["rooms"]) == {rooms[1], rooms[3]}
    assert answer["lists"] == {"all": {"count": 4}}
    assert answer["rooms"][rooms[1]]["name"] == "room 1"
    assert answer["rooms"][rooms[1]]["initial"] is True
    assert answer["rooms"][rooms[1]]["lists"] == ["all"]
    assert texts(answer["rooms"][rooms[1]]) == ["hello"]

    client.lists = {"all": window((0, 3), limit=1)}
    answer = await client.sync()
    assert set(answer["rooms"]) == {rooms[0], rooms[2]}, "only those that it doesn't know"
    assert (await client.sync())["rooms"] == {}


async def test_a_room_comes_into_the_window_by_its_events(server: Running) -> None:
    alice = await server.person("alice")
    rooms = [await alice.create_room() for _ in range(3)]
    client = Sliding(alice, {"all": window((0, 0), limit=5)})
    assert set((await client.sync())["rooms"]) == {rooms[2]}
    await alice.say(rooms[0], "up")
    answer = await client.sync()
    assert set(answer["rooms"]) == {rooms[0]}
    assert answer["rooms"][rooms[0]]["initial"] is True
    assert answer["rooms"][rooms[0]]["num_live"] == 1


async def test_what_happens_outside_of_the_window_is_told_when_the_room_comes_back(
    server: Running,
) -> None:
    alice = await server.person("alice")
    first, second = [await alice.create_room() for _ in range(2)]
    client = Sliding(alice, {"all": window((0, 1), limit=2, state=[["m.room.topic", ""]])})
    await client.sync()
    client.lists["all"] = window((0, 0), limit=2, state=[["m.room.topic", ""]])
    await alice.say(first, "one")
    await alice.say(first, "two")
    await alice.say(first, "three")
    await alice.put_state(first, "m.room.topic", {"topic": "new"})
    await alice.say(second, "now this one is the first")
    answer = await client.sync()
    assert set(answer["rooms"]) == {second}
    await alice.say(second, "again")
    assert set((await client.sync())["rooms"]) == {second}
    client.lists["all"] = window((0, 1), limit=2, state=[["m.room.topic", ""]])
    answer = await client.sync()
    assert set(answer["rooms"]) == {first}
    result = answer["rooms"][first]
    assert "initial" not in result
    assert result["limited"] is True
    assert texts(result) == ["three"]
    assert state_keys(result) == {("m.room.topic", "")}


async def test_filters(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    plain = await alice.create_room()
    secret = await alice.create_room(
        initial_state=[
            {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
        ]
    )
    direct = await alice.create_room()
    space = await alice.create_room(creation_content={"type": "m.space"})
    invited = await bob.create_room()
    await invite(bob, invited, alice)
    await keep(alice, "m.direct", {bob.user_id: [direct]})
    tag = f"/user/{quote(alice.user_id)}/rooms/{quote(plain)}/tags/m.favourite"
    await alice.ok("PUT", tag, body={})
    await alice.put_state(space, "m.space.child", {"via": ["test.example"]}, secret)
    await alice.put_state(space, "m.space.child", {}, plain)
    everything = {plain, secret, direct, space, invited}
    cases: list[tuple[dict[str, Any], set[str]]] = [
        ({}, everything),
        ({"is_dm": True}, {direct}),
        ({"is_dm": False}, everything - {direct}),
        ({"is_encrypted": True}, {secret}),
        ({"is_encrypted": False}, everything - {secret}),
        ({"is_invite": True}, {invited}),
        ({"is_invited": False}, everything - {invited}),
        ({"room_types": ["m.space"]}, {space}),
        ({"room_types": [None]}, everything - {space}),
        ({"not_room_types": ["m.space"]}, everything - {space}),
        ({"not_room_types": [None], "room_types": [None, "m.space"]}, {space}),
        ({"tags": ["m.favourite", "m.lowpriority"]}, {plain}),
        ({"not_tags": ["m.favourite"]}, everything - {plain}),
        ({"tags": ["m.favourite"], "not_tags": ["m.favourite"]}, set()),
        ({"spaces": [space]}, {secret}),
        ({"spaces": ["!unknown:test.example"]}, set()),
        ({"is_dm": False, "is_invite": False, "not_room_types": ["m.space"]}, {plain, secret}),
    ]
    for number, (filters, expected) in enumerate(cases):
        client = Sliding(alice, {"one": window(**filters)}, conn_id=f"{number % 5}")
        answer = await client.sync()
        assert set(answer["rooms"]) == expected, filters
        assert answer["lists"]["one"]["count"] == len(expected), filters


async def test_a_filter_hears_of_what_changes(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    lists = {
        "dm": window(is_dm=True),
        "secret": window(is_encrypted=True),
        "t": window(tags=["u.t"]),
    }
    client = Sliding(alice, lists)
    assert (await client.sync())["rooms"] == {}
    await keep(alice, "m.direct", {"@bob:test.example": [room]})
    answer = await client.sync()
    assert answer["lists"]["dm"]["count"] == 1
    assert answer["rooms"][room]["is_dm"] is True
    await alice.put_state(room, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    tag = f"/user/{quote(alice.user_id)}/rooms/{quote(room)}/tags/u.t"
    await alice.ok("PUT", tag, body={})
    answer = await client.sync()
    assert {name: found["count"] for name, found in answer["lists"].items()} == {
        "dm": 1,
        "secret": 1,
        "t": 1,
    }
    assert answer["rooms"][room]["lists"] == ["dm", "secret", "t"]
    await keep(alice, "m.direct", {})
    answer = await client.sync()
    assert answer["rooms"][room]["is_dm"] is False


async def test_rules_for_one_room_are_joined(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(name="a name", topic="a topic")
    for n in range(5):
        await alice.say(room, f"{n}")
    client = Sliding(
        alice,
        {"one": window(limit=1, state=[["m.room.name", ""]])},
        {room: {"timeline_limit": 3, "required_state": [["m.room.topic", ""]]}},
    )
    answer = await client.sync()
    assert texts(answer["rooms"][room]) == ["2", "3", "4"]
    assert state_keys(answer["rooms"][room]) == {("m.room.name", ""), ("m.room.topic", "")}


async def test_subscriptions_tell_of_rooms_that_the_user_is_in_only(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    mine = await alice.create_room()
    theirs = await bob.create_room(preset="public_chat")
    wanted = {"timeline_limit": 5, "required_state": [["*", "*"]]}
    rooms = dict.fromkeys((mine, theirs, "!none:test.example", "nonsense"), wanted)
    client = Sliding(alice, subscriptions=rooms)
    answer = await client.sync()
    assert set(answer["rooms"]) == {mine}
    assert "lists" not in answer["rooms"][mine]
    await bob.say(theirs, "not for alice")
    assert (await client.sync())["rooms"] == {}
    await alice.join(theirs)
    answer = await client.sync()
    assert answer["rooms"][theirs]["initial"] is True
    assert answer["rooms"][theirs]["membership"] == "join"


async def test_invites_and_knocks_show_their_stripped_state_once(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await bob.create_room(name="come in")
    await invite(bob, room, alice)
    client = Sliding(alice, {"all": window((0, 20))})
    result = (await client.sync())["rooms"][room]
    assert result["membership"] == "invite"
    assert result["stripped_state"] == result["invite_state"]
    assert "m.room.name" in {event["type"] for event in result["stripped_state"]}
    assert "timeline" not in result
    assert "joined_count" not in result
    assert (await client.sync())["rooms"] == {}
    await bob.say(room, "alice can't see this")
    assert (await client.sync())["rooms"] == {}
    await alice.join(room)
    result = (await client.sync())["rooms"][room]
    assert result["initial"] is True
    assert result["membership"] == "join"
    assert result["joined_count"] == 2

    knocked = await bob.create_room(
        room_version="10",
        initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}],
    )
    await alice.ok("POST", f"/knock/{quote(knocked)}", body={})
    result = (await client.sync())["rooms"][knocked]
    assert result["membership"] == "knock"
    assert result["stripped_state"]


async def test_invites_of_ignored_users_stand_in_no_list(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await bob.create_room()
    await invite(bob, room, alice)
    await ignore(alice, bob)
    answer = await Sliding(alice, {"all": window()}).sync()
    assert answer["rooms"] == {}
    assert answer["lists"]["all"]["count"] == 0


async def test_a_room_that_was_left_is_told_once(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    client = Sliding(bob, {"all": window((0, 5), state=[["m.room.member", "$ME"]])})
    await client.sync()
    await alice.say(room, "before")
    await moved(bob, room, "leave")
    await alice.say(room, "after")
    result = (await client.sync())["rooms"][room]
    assert result["membership"] == "leave"
    assert texts(result) == ["before"]
    assert result["timeline"][-1]["content"]["membership"] == "leave"
    assert state_keys(result) == {("m.room.member", bob.user_id)}
    await alice.say(room, "bob is gone")
    assert (await client.sync())["rooms"] == {}
    # To a client that begins anew it goes without saying.
    answer = await Sliding(bob, {"all": window()}, conn_id="other").sync()
    assert answer["rooms"] == {}
    await bob.join(room)
    result = (await client.sync())["rooms"][room]
    assert result["initial"] is True
    assert result["membership"] == "join"


async def test_who_was_removed_learns_of_it_whatever_was_told(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    kicked, banned, never = [
        await alice.create_room(preset="public_chat", name=name) for name in ("k", "b", "n")
    ]
    await bob.join(kicked)
    await bob.join(banned)
    await moved(alice, kicked, "kick", bob)
    await moved(alice, banned, "ban", bob)
    await moved(alice, never, "ban", bob)
    client = Sliding(bob, {"all": window()})
    answer = await client.sync()
    assert {room: result["membership"] for room, result in answer["rooms"].items()} == {
        kicked: "leave",
        banned: "ban",
    }
    assert (await client.sync())["rooms"] == {}


async def test_an_invite_that_is_taken_back_is_told_of(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room()
    await invite(alice, room, bob)
    client = Sliding(bob, {"invites": window(is_invite=True)})
    assert room in (await client.sync())["rooms"]
    await moved(alice, room, "kick", bob)
    result = (await client.sync())["rooms"][room]
    assert result["membership"] == "leave"
    assert [event["type"] for event in result["timeline"]] == ["m.room.member"]
