"""Upgrading a room: everything that can go goes along."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.serving import Person, Running


async def state_of(person: Person, room: str) -> dict[tuple[str, str], Any]:
    events = await person.ok("GET", f"/rooms/{quote(room, safe='')}/state")
    return {(event["type"], event["state_key"]): event["content"] for event in events}


async def upgrade(person: Person, room: str, version: str, **more: Any) -> str:
    path = f"/rooms/{quote(room, safe='')}/upgrade"
    reply = await person.ok("POST", path, body={"new_version": version, **more})
    return str(reply["replacement_room"])


async def relinked(person: Person, room: str, old: tuple[str, str]) -> dict[tuple[str, str], Any]:
    """The state of a room, once the person is told that it names the old room no longer."""
    while True:
        joined = (await person.sync(timeout=30_000)).get("rooms", {}).get("join", {})
        for event in joined.get(room, {}).get("timeline", {}).get("events", ()):
            if (event["type"], event.get("state_key")) == old and not event["content"]:
                return await state_of(person, room)


@pytest.mark.parametrize(
    ("before", "after"), [("9", "12"), ("12", "11"), ("11", "12"), ("6", "10")]
)
async def test_state_bans_aliases_and_the_directory_go_along(
    server: Running, before: str, after: str
) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    old = await alice.create_room(
        room_version=before,
        visibility="public",
        preset="public_chat",
        room_alias_name="here",
        name="The room",
        topic="Its topic",
        creation_content={"type": "org.test.kind"},
        initial_state=[
            {"type": "m.room.server_acl", "content": {"allow": ["*"], "deny": ["evil.example"]}},
            {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}},
        ],
    )
    path = f"/rooms/{quote(old, safe='')}"
    levels = (await state_of(alice, old))["m.room.power_levels", ""]
    levels["users"][bob.user_id] = 42
    levels["events"]["org.test"] = 7
    await alice.put_state(old, "m.room.power_levels", levels)
    body = {"user_id": "@banned:elsewhere.example", "reason": "spam"}
    await alice.ok("POST", f"{path}/ban", body=body)
    new = await upgrade(alice, old, after)
    assert new != old
    state = await state_of(alice, new)
    create = state["m.room.create", ""]
    assert create["room_version"] == after
    assert create["predecessor"]["room_id"] == old
    assert create["type"] == "org.test.kind"
    assert state["m.room.name", ""] == {"name": "The room"}
    assert state["m.room.topic", ""]["topic"] == "Its topic"
    assert state["m.room.server_acl", ""]["deny"] == ["evil.example"]
    assert state["m.room.encryption", ""] == {"algorithm": "m.megolm.v1.aes-sha2"}
    assert state["m.room.join_rules", ""] == {"join_rule": "public"}
    assert state["m.room.member", "@banned:elsewhere.example"] == {
        "membership": "ban",
        "reason": "spam",
    }
    assert state["m.room.power_levels", ""]["users"][bob.user_id] == 42
    assert state["m.room.power_levels", ""]["events"]["org.test"] == 7
    assert (alice.user_id in state["m.room.power_levels", ""]["users"]) == (after != "12")
    assert state["m.room.canonical_alias", ""] == {"alias": "#here:test.example"}
    found = await alice.ok("GET", "/directory/room/%23here%3Atest.example")
    assert found["room_id"] == new
    listed = await alice.ok("GET", "/publicRooms")
    assert [entry["room_id"] for entry in listed["chunk"]] == [new]
    closed = await state_of(alice, old)
    assert closed["m.room.tombstone", ""]["replacement_room"] == new
    assert closed["m.room.power_levels", ""]["events_default"] == 50
    assert closed["m.room.power_levels", ""]["invite"] == 50
    assert "alias" not in closed["m.room.canonical_alias", ""]


async def test_what_members_made_of_the_room_follows_them(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    old = await alice.create_room(preset="public_chat", room_version="11")
    await bob.join(old)
    user = f"/user/{quote(bob.user_id, safe='')}"
    await bob.ok("PUT", f"{user}/rooms/{quote(old, safe='')}/tags/m.favourite", body={"order": 0.5})
    rule = f"/pushrules/global/room/{quote(old, safe='')}"
    await bob.ok("PUT", rule, body={"actions": []})
    body: dict[str, Any] = {alice.user_id: [old]}
    await bob.ok("PUT", f"{user}/account_data/m.direct", body=body)
    new = await upgrade(alice, old, "12")
    await bob.join(new)
    tags = await bob.ok("GET", f"{user}/rooms/{quote(new, safe='')}/tags")
    assert tags["tags"] == {"m.favourite": {"order": 0.5}}
    copied = await bob.ok("GET", f"/pushrules/global/room/{quote(new, safe='')}")
    assert copied["actions"] == []
    direct = await bob.ok("GET", f"{user}/account_data/m.direct")
    assert direct == {alice.user_id: [new]}


async def test_spaces_hold_the_new_room_in_place_of_the_old(server: Running) -> None:
    alice = await server.person("alice")
    space = await alice.create_room(creation_content={"type": "m.space"})
    old = await alice.create_room(room_version="11")
    link = {"via": ["test.example"], "order": "a", "suggested": True}
    await alice.put_state(space, "m.space.child", link, old)
    await alice.put_state(old, "m.space.parent", {"via": ["test.example"]}, space)
    await alice.sync()
    new = await upgrade(alice, old, "12")
    links = await relinked(alice, space, ("m.space.child", old))
    assert links["m.space.child", new] == link
    assert links["m.space.child", old] == {}
    assert ("m.space.parent", space) in await state_of(alice, new)
    # A space's own children go along when it is upgraded itself.
    upgraded = await upgrade(alice, space, "12")
    assert (await state_of(alice, upgraded))["m.space.child", new] == link
    assert (await state_of(alice, upgraded))["m.room.create", ""]["type"] == "m.space"


async def test_children_of_a_space_have_the_new_one_for_a_parent(server: Running) -> None:
    """In the child it is said by who may: other children keep the link to the old space."""
    alice, bob = await server.person("alice"), await server.person("bob")
    space = await alice.create_room(room_version="11", creation_content={"type": "m.space"})
    link = {"via": ["test.example"]}
    parent = {"via": ["test.example"], "canonical": True}
    child, unlinked = await alice.create_room(), await alice.create_room()
    theirs = await bob.create_room(preset="public_chat")
    await alice.join(theirs)
    for room in (child, unlinked, theirs, "!elsewhere:far.example"):
        await alice.put_state(space, "m.space.child", link, room)
    await alice.put_state(child, "m.space.parent", parent, space)
    await alice.put_state(unlinked, "m.space.parent", {}, space)
    await bob.put_state(theirs, "m.space.parent", parent, space)
    await alice.sync()
    new = await upgrade(alice, space, "12")
    links = await relinked(alice, child, ("m.space.parent", space))
    assert links["m.space.parent", new] == parent
    assert links["m.space.parent", space] == {}
    assert (await state_of(alice, theirs))["m.space.parent", space] == parent
    for room in (unlinked, theirs):
        assert ("m.space.parent", new) not in await state_of(alice, room)


async def test_links_follow_although_the_server_stops(server: Running) -> None:
    """A space of many children is not waited for, and each of them has the new one in the end."""
    alice = await server.person("alice")
    space = await alice.create_room(creation_content={"type": "m.space"}, room_version="11")
    children = [await alice.create_room() for _ in range(40)]
    for child in children:
        await alice.put_state(space, "m.space.child", {"via": ["test.example"]}, child)
        await alice.put_state(child, "m.space.parent", {"via": ["test.example"]}, space)
    new = await upgrade(alice, space, "12")
    await server.restart()
    missing = set(children)
    while missing:
        await alice.sync(timeout=30_000)
        for child in set(missing):
            parents = await state_of(alice, child)
            if ("m.space.parent", new) in parents and parents["m.space.parent", space] == {}:
                missing.discard(child)


async def test_additional_creators_are_those_who_are_named(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    old = await alice.create_room(room_version="11")
    new = await upgrade(alice, old, "12", additional_creators=[bob.user_id])
    create = (await state_of(alice, new))["m.room.create", ""]
    assert create["additional_creators"] == [bob.user_id]


async def test_who_has_just_enough_power_can_upgrade(server: Running) -> None:
    """Levels that the upgrader could not set are there in the end all the same."""
    alice, bob = await server.person("alice"), await server.person("bob")
    old = await alice.create_room(preset="public_chat", room_version="11")
    await bob.join(old)
    levels = (await state_of(alice, old))["m.room.power_levels", ""]
    levels["users"][bob.user_id] = 50
    levels["events"]["m.room.tombstone"] = 50
    await alice.put_state(old, "m.room.power_levels", levels)
    new = await upgrade(bob, old, "11")
    assert (await state_of(bob, new))["m.room.power_levels", ""] == levels


async def test_who_may_not_send_the_tombstone_changes_nothing(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    old = await alice.create_room(preset="public_chat")
    await bob.join(old)
    path = f"/rooms/{quote(old, safe='')}/upgrade"
    await bob.refused("M_FORBIDDEN", "POST", path, body={"new_version": "12"})
    await alice.refused("M_UNSUPPORTED_ROOM_VERSION", "POST", path, body={"new_version": "nine"})
    await alice.refused("M_MISSING_PARAM", "POST", path, body={})
    assert ("m.room.tombstone", "") not in await state_of(alice, old)
    assert len((await alice.ok("GET", "/joined_rooms"))["joined_rooms"]) == 1
