"""Rooms that members of other rooms may join.

spec: client-server-api#restricted-rooms
"""

from typing import Any

import pytest

from tests.rooms.paths import at
from tests.serving import Person, Running


async def restricted(
    owner: Person, rule: str, allowing: list[Any], version: str = "12", **options: Any
) -> str:
    room = await owner.create_room(room_version=version, **options)
    await owner.put_state(room, "m.room.join_rules", {"join_rule": rule, "allow": allowing})
    return room


def members_of(room_id: str) -> dict[str, str]:
    return {"type": "m.room_membership", "room_id": room_id}


async def authoriser(person: Person, room_id: str, user: Person) -> str | None:
    content = await person.ok("GET", at(room_id, "state", "m.room.member", user.user_id))
    named: str | None = content.get("join_authorised_via_users_server")
    return named


@pytest.mark.parametrize(
    ("rule", "version"),
    [("restricted", "8"), ("restricted", "11"), ("knock_restricted", "10"), ("restricted", "12")],
)
async def test_members_of_an_allowed_room_may_join(
    server: Running, rule: str, version: str
) -> None:
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    space = await alice.create_room(preset="public_chat")
    nonsense = [1, {}, {"type": "m.room_membership", "room_id": "!\0"}, {"type": "x"}]
    room = await restricted(alice, rule, [*nonsense, members_of(space)], version)
    await bob.refused("M_FORBIDDEN", "POST", at(room, "join"), body={})
    await bob.join(space)
    await bob.join(room)
    assert await authoriser(alice, room, bob) == alice.user_id
    await bob.ok("POST", at(space, "leave"), body={})
    await bob.say(room, "still here")
    await alice.ok("POST", at(room, "invite"), body={"user_id": carol.user_id})
    await carol.join(room)
    assert await authoriser(alice, room, carol) is None


async def test_without_allowed_rooms_only_the_invited_join(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    for allowing in ([], [members_of("!unknown:test.example")]):
        room = await restricted(alice, "restricted", allowing)
        await bob.refused("M_FORBIDDEN", "POST", at(room, "join"), body={})


async def test_the_rule_means_nothing_before_version_8(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    space = await alice.create_room(preset="public_chat")
    await bob.join(space)
    room = await restricted(alice, "restricted", [members_of(space)], "7")
    await bob.refused("M_FORBIDDEN", "POST", at(room, "join"), body={})


async def test_any_member_who_may_invite_can_authorise(server: Running) -> None:
    """The power levels name only those who have left, but everybody may invite."""
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    space = await alice.create_room(preset="public_chat")
    room = await restricted(alice, "restricted", [members_of(space)])
    for person in (bob, carol):
        await person.join(space)
    await bob.join(room)
    await alice.ok("POST", at(room, "leave"), body={})
    await carol.join(room)
    assert await authoriser(bob, room, carol) == bob.user_id


async def test_nobody_can_authorise_when_nobody_may_invite(server: Running) -> None:
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    space = await alice.create_room(preset="public_chat")
    room = await restricted(
        alice,
        "restricted",
        [members_of(space)],
        power_level_content_override={"invite": 50},
    )
    for person in (bob, carol):
        await person.join(space)
    await bob.join(room)
    await alice.ok("POST", at(room, "leave"), body={})
    await carol.refused("M_UNABLE_TO_GRANT_JOIN", "POST", at(room, "join"), body={})


async def test_a_client_cannot_name_its_own_authoriser(server: Running) -> None:
    alice, mallory = await server.person("alice"), await server.person("mallory")
    space = await alice.create_room()
    room = await restricted(alice, "restricted", [members_of(space)])
    path = at(room, "state", "m.room.member", mallory.user_id)
    body = {"membership": "join", "join_authorised_via_users_server": alice.user_id}
    await mallory.refused("M_FORBIDDEN", "PUT", path, body=body)
    assert (await mallory.ok("GET", "/joined_rooms"))["joined_rooms"] == []


async def test_the_banned_stay_out(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    space = await alice.create_room(preset="public_chat")
    room = await restricted(alice, "restricted", [members_of(space)])
    await bob.join(space)
    await alice.ok("POST", at(room, "ban"), body={"user_id": bob.user_id})
    await bob.refused("M_FORBIDDEN", "POST", at(room, "join"), body={})


async def test_a_changed_profile_needs_no_authoriser(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    space = await alice.create_room(preset="public_chat")
    room = await restricted(alice, "restricted", [members_of(space)])
    await bob.join(space)
    await bob.join(room)
    path = at(room, "state", "m.room.member", bob.user_id)
    before = await alice.ok("GET", path)
    await bob.ok("PUT", path, body={**before, "displayname": "Bob"})
    assert await alice.ok("GET", path) == {"membership": "join", "displayname": "Bob"}
