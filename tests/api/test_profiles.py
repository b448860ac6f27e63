"""Profiles, and how they reach the rooms."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.serving import Person, Running

MXC = "mxc://test.example/abc"


async def name(person: Person, value: Any, field: str = "displayname") -> None:
    await person.ok("PUT", f"/profile/{person.user_id}/{field}", body={field: value})


async def member(person: Person, room_id: str) -> Any:
    path = f"/rooms/{quote(room_id, safe='')}/state/m.room.member/{quote(person.user_id)}"
    return await person.ok("GET", path)


async def shown(person: Person, room_ids: list[str], **fields: str | None) -> None:
    """Wait, from news to news, until all rooms show these fields of the person."""
    while True:
        contents = [await member(person, room_id) for room_id in room_ids]
        if all(content.get(key) == fields[key] for content in contents for key in fields):
            return
        await person.sync(timeout=30_000)


async def test_a_new_account_has_an_empty_profile(server: Running) -> None:
    alice = await server.person("alice")
    assert await alice.ok("GET", f"/profile/{alice.user_id}") == {}
    await alice.refused("M_NOT_FOUND", "GET", f"/profile/{alice.user_id}/displayname")


async def test_fields_are_set_and_read_by_anybody(server: Running) -> None:
    alice = await server.person("alice")
    await name(alice, "Alice 🦊")
    await name(alice, MXC, "avatar_url")
    await name(alice, "Europe/Berlin", "m.tz")
    await name(alice, {"job": [1, None]}, "org.example.more")
    path = f"/_matrix/client/v3/profile/{alice.user_id}"
    assert (await server.request("GET", path)).body == {
        "displayname": "Alice 🦊",
        "avatar_url": MXC,
        "m.tz": "Europe/Berlin",
        "org.example.more": {"job": [1, None]},
    }
    assert (await server.request("GET", f"{path}/avatar_url")).body == {"avatar_url": MXC}


@pytest.mark.parametrize("value", [None, ""])
async def test_nothing_takes_a_name_away(server: Running, value: str | None) -> None:
    alice = await server.person("alice")
    await name(alice, "Alice")
    await name(alice, value)
    await alice.refused("M_NOT_FOUND", "GET", f"/profile/{alice.user_id}/displayname")


async def test_fields_are_deleted(server: Running) -> None:
    alice = await server.person("alice")
    await name(alice, "Alice")
    for _ in range(2):
        await alice.ok("DELETE", f"/profile/{alice.user_id}/displayname")
    assert await alice.ok("GET", f"/profile/{alice.user_id}") == {}


async def test_other_profiles_are_out_of_reach(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    path = f"/profile/{bob.user_id}/displayname"
    await alice.refused("M_FORBIDDEN", "PUT", path, body={"displayname": "x"})
    await alice.refused("M_FORBIDDEN", "DELETE", path)
    for user_id, errcode in (
        ("@nobody:test.example", "M_NOT_FOUND"),
        ("@alice:nowhere.invalid", "M_UNKNOWN"),
    ):
        await alice.refused(errcode, "GET", f"/profile/{user_id}")
        await alice.refused(errcode, "GET", f"/profile/{user_id}/displayname")
    await alice.refused("M_INVALID_PARAM", "GET", "/profile/nobody")


@pytest.mark.parametrize(
    ("field", "body", "errcode"),
    [
        ("displayname", {}, "M_MISSING_PARAM"),
        ("displayname", {"displayname": 1}, "M_BAD_JSON"),
        ("displayname", {"displayname": "x" * 257}, "M_INVALID_PARAM"),
        ("avatar_url", {"avatar_url": {}}, "M_BAD_JSON"),
        ("avatar_url", {"avatar_url": "https://example.org/x.png"}, "M_INVALID_PARAM"),
        ("avatar_url", {"avatar_url": "mxc://" + "x" * 1_000}, "M_INVALID_PARAM"),
        ("Displayname", {"Displayname": "x"}, "M_INVALID_PARAM"),
        ("nodot", {"nodot": "x"}, "M_INVALID_PARAM"),
        ("org." + "x" * 255, {}, "M_KEY_TOO_LARGE"),
        ("org.example", {"org.example": "x" * 65_536}, "M_PROFILE_TOO_LARGE"),
    ],
)
async def test_malformed_fields(server: Running, field: str, body: Any, errcode: str) -> None:
    alice = await server.person("alice")
    path = f"/profile/{alice.user_id}/{field}"
    assert (await alice.refused(errcode, "PUT", path, body=body)).status == 400


async def test_rooms_follow_a_new_name(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    rooms = [await alice.create_room(preset="public_chat") for _ in range(3)]
    await bob.join(rooms[0])
    await bob.sync()
    await alice.sync()
    await name(alice, "Alice")
    await name(alice, MXC, "avatar_url")
    await shown(alice, rooms, membership="join", displayname="Alice", avatar_url=MXC)
    timeline = (await bob.sync())["rooms"]["join"][rooms[0]]["timeline"]["events"]
    assert {event["state_key"] for event in timeline} == {alice.user_id}
    assert timeline[-1]["content"]["displayname"] == "Alice"
    await alice.ok("DELETE", f"/profile/{alice.user_id}/avatar_url")
    await shown(alice, rooms, displayname="Alice", avatar_url=None)


async def test_a_join_shows_the_profile(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    await name(bob, "Bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    assert (await member(bob, room_id))["displayname"] == "Bob"


async def test_rooms_follow_also_after_a_restart(server: Running) -> None:
    alice = await server.person("alice")
    rooms = [await alice.create_room() for _ in range(10)]
    await alice.sync()
    await name(alice, "Alice")
    await server.restart()
    await shown(alice, rooms, displayname="Alice")


async def test_a_room_that_was_left_hears_nothing(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    left, kept = [await alice.create_room(preset="public_chat") for _ in range(2)]
    for room_id in (left, kept):
        await bob.join(room_id)
    await bob.ok("POST", f"/rooms/{quote(left, safe='')}/leave", body={})
    await bob.sync()
    await name(bob, "Bob")
    await shown(bob, [kept], displayname="Bob")
    assert (await member(alice, left)).get("displayname") is None


async def test_a_room_keeps_a_name_of_its_own(server: Running) -> None:
    alice = await server.person("alice")
    followed, own = [await alice.create_room() for _ in range(2)]
    await name(alice, "Alice")
    await alice.sync()
    await shown(alice, [followed, own], displayname="Alice")
    content = {"membership": "join", "displayname": "Alice of here"}
    await alice.put_state(own, "m.room.member", content, alice.user_id)
    await name(alice, "Bettina")
    await name(alice, MXC, "avatar_url")
    await shown(alice, [followed], displayname="Bettina", avatar_url=MXC)
    await shown(alice, [own], displayname="Alice of here", avatar_url=MXC)


async def test_the_newest_of_many_changes_wins_everywhere(server: Running) -> None:
    alice = await server.person("alice")
    rooms = [await alice.create_room() for _ in range(12)]
    await alice.sync()
    for number in range(5):
        await name(alice, f"Name {number}")
    await server.restart()
    await name(alice, "Last")
    await shown(alice, rooms, displayname="Last")


async def test_rooms_that_have_followed_are_not_told_again(server: Running) -> None:
    alice = await server.person("alice")
    rooms = [await alice.create_room() for _ in range(3)]
    await alice.sync()
    await name(alice, "Alice")
    await shown(alice, rooms, displayname="Alice")
    await server.restart()
    await name(alice, "Alice")
    await name(alice, MXC, "avatar_url")
    await shown(alice, rooms, avatar_url=MXC)
    for room_id in rooms:
        path = f"/rooms/{quote(room_id, safe='')}/messages"
        events = (await alice.ok("GET", path, query={"dir": "b", "limit": 50}))["chunk"]
        changes = [event for event in events if event.get("state_key") == alice.user_id]
        assert len(changes) == 3
