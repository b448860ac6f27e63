"""Rooms begin as their creator wants them, whole or not at all.

spec: client-server-api#post_matrixclientv3createroom
"""

from typing import Any

import pytest

from tests.rooms.paths import at
from tests.serving import SERVER_NAME, Person, Running

VERSIONS = [str(number) for number in range(1, 13)]


async def timeline(person: Person, room_id: str) -> list[dict[str, Any]]:
    """All events of a room, oldest first."""
    page = await person.ok("GET", at(room_id, "messages"), query={"dir": "f", "limit": 100})
    events: list[dict[str, Any]] = page["chunk"]
    return events


async def content(person: Person, room_id: str, event_type: str, state_key: str = "") -> Any:
    return await person.ok("GET", at(room_id, "state", event_type, state_key))


async def rooms_of(server: Running, person: Person) -> list[str]:
    joined: list[str] = (await person.ok("GET", "/joined_rooms"))["joined_rooms"]
    return joined


async def test_events_come_in_the_order_of_the_specification(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(
        room_alias_name="start",
        preset="private_chat",
        name="Start",
        topic="Everything",
        invite=[bob.user_id, bob.user_id, alice.user_id],
        initial_state=[
            {"type": "m.custom", "state_key": "b", "content": {"n": 1}},
            {"type": "m.room.guest_access", "content": {"guest_access": "forbidden"}},
            {"type": "m.custom", "state_key": "a", "content": {"n": 2}},
        ],
    )
    events = await timeline(alice, room)
    assert [(event["type"], event["state_key"]) for event in events] == [
        ("m.room.create", ""),
        ("m.room.member", alice.user_id),
        ("m.room.power_levels", ""),
        ("m.room.canonical_alias", ""),
        ("m.room.join_rules", ""),
        ("m.room.history_visibility", ""),
        ("m.custom", "b"),
        ("m.room.guest_access", ""),
        ("m.custom", "a"),
        ("m.room.name", ""),
        ("m.room.topic", ""),
        ("m.room.member", bob.user_id),
    ]
    assert events[-1]["content"]["membership"] == "invite"
    assert events[3]["content"] == {"alias": f"#start:{SERVER_NAME}"}


@pytest.mark.parametrize(
    ("options", "join_rule", "guests", "published"),
    [
        ({}, "invite", "can_join", "private"),
        ({"visibility": "public"}, "public", "forbidden", "public"),
        ({"visibility": "private"}, "invite", "can_join", "private"),
        ({"preset": "public_chat"}, "public", "forbidden", "private"),
        ({"preset": "private_chat", "visibility": "public"}, "invite", "can_join", "public"),
        ({"preset": "trusted_private_chat"}, "invite", "can_join", "private"),
    ],
)
async def test_presets(
    server: Running, options: dict[str, Any], join_rule: str, guests: str, published: str
) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(**options)
    assert (await content(alice, room, "m.room.join_rules"))["join_rule"] == join_rule
    assert (await content(alice, room, "m.room.guest_access"))["guest_access"] == guests
    visibility = await content(alice, room, "m.room.history_visibility")
    assert visibility == {"history_visibility": "shared"}
    listed = await alice.ok("GET", "/directory/list" + at(room).replace("/rooms/", "/room/"))
    assert listed == {"visibility": published}


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_room_version_can_be_talked_in(server: Running, version: str) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(room_version=version, preset="public_chat", name="N")
    assert (":" in room) is (version != "12")
    created = (await timeline(alice, room))[0]["content"]
    assert created["room_version"] == version
    assert created.get("creator") == (alice.user_id if int(version) < 11 else None)
    await bob.join(room)
    sent = await bob.say(room, "hello")
    got = await alice.ok("GET", at(room, "event", sent))
    assert (got["content"]["body"], got["room_id"]) == ("hello", room)
    await bob.refused("M_FORBIDDEN", "PUT", at(room, "state", "m.room.name"), body={"name": "B"})
    await alice.put_state(room, "m.room.name", {"name": "A"})
    await alice.ok("POST", at(room, "kick"), body={"user_id": bob.user_id})
    await bob.refused("M_FORBIDDEN", "PUT", at(room, "send", "m.room.message", "1"), body={})
    await server.restart()
    await alice.say(room, "still here")


async def test_name_and_topic_become_state(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(
        name="Name",
        topic="Topic",
        initial_state=[{"type": "m.room.name", "content": {"name": "Other"}}],
    )
    assert await content(alice, room, "m.room.name") == {"name": "Name"}
    assert await content(alice, room, "m.room.topic") == {
        "topic": "Topic",
        "m.topic": {"m.text": [{"body": "Topic", "mimetype": "text/plain"}]},
    }


async def test_initial_state_goes_before_presets(server: Running) -> None:
    alice = await server.person("alice")
    rules = {"join_rule": "knock"}
    room = await alice.create_room(
        preset="public_chat", initial_state=[{"type": "m.room.join_rules", "content": rules}]
    )
    assert await content(alice, room, "m.room.join_rules") == rules
    types = [event["type"] for event in await timeline(alice, room)]
    assert types.count("m.room.join_rules") == 1


async def test_power_levels_are_laid_over_the_default(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(
        room_version="11", power_level_content_override={"events_default": 10, "invite": 70}
    )
    levels = await content(alice, room, "m.room.power_levels")
    assert (levels["events_default"], levels["invite"], levels["ban"]) == (10, 70, 50)
    assert levels["users"] == {alice.user_id: 100}


async def test_creators_of_version_12_stand_above_the_levels(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(
        preset="trusted_private_chat",
        invite=[bob.user_id],
        creation_content={"additional_creators": ["@carol:elsewhere.example"]},
    )
    levels = await content(alice, room, "m.room.power_levels")
    assert levels["users"] == {}
    assert levels["events"]["m.room.tombstone"] > levels["state_default"]
    created = await content(alice, room, "m.room.create")
    assert created["additional_creators"] == ["@carol:elsewhere.example", bob.user_id]
    await bob.join(room)
    await bob.put_state(room, "m.room.tombstone", {"body": "gone"})
    await alice.refused("M_FORBIDDEN", "POST", at(room, "kick"), body={"user_id": bob.user_id})


async def test_trusted_invitees_of_older_versions_have_the_creators_level(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(
        preset="trusted_private_chat", room_version="10", invite=[bob.user_id]
    )
    levels = await content(alice, room, "m.room.power_levels")
    assert levels["users"] == {alice.user_id: 100, bob.user_id: 100}
    assert "additional_creators" not in await content(alice, room, "m.room.create")


async def test_direct_chats_say_so_in_the_invite(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(is_direct=True, invite=[bob.user_id])
    invite = await content(alice, room, "m.room.member", bob.user_id)
    assert invite["is_direct"] is True
    invited = (await bob.sync())["rooms"]["invite"][room]["invite_state"]["events"]
    own = [event for event in invited if event["state_key"] == bob.user_id]
    assert own[0]["content"]["is_direct"] is True


async def test_what_creation_content_may_say_and_what_not(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(
        room_version="10",
        creation_content={
            "type": "m.space",
            "m.federate": False,
            "creator": "@mallory:elsewhere.example",
            "room_version": "1",
            "org.example": {"x": [1]},
        },
    )
    assert await content(alice, room, "m.room.create") == {
        "type": "m.space",
        "m.federate": False,
        "creator": alice.user_id,
        "room_version": "10",
        "org.example": {"x": [1]},
    }


UNUSABLE: list[tuple[str, dict[str, Any]]] = [
    ("M_UNSUPPORTED_ROOM_VERSION", {"room_version": "0"}),
    ("M_UNSUPPORTED_ROOM_VERSION", {"room_version": ""}),
    ("M_BAD_JSON", {"room_version": "12\0"}),
    ("M_BAD_JSON", {"room_version": 12}),
    ("M_BAD_JSON", {"preset": "open_house"}),
    ("M_BAD_JSON", {"visibility": "secret"}),
    ("M_BAD_JSON", {"name": "a\0b"}),
    ("M_BAD_JSON", {"topic": "a\0b"}),
    ("M_BAD_JSON", {"room_alias_name": "a\0b"}),
    ("M_BAD_JSON", {"initial_state": [{"type": "m.room.name", "content": {"name": "\0"}}]}),
    ("M_BAD_JSON", {"initial_state": [{"type": "a\0", "content": {}}]}),
    ("M_BAD_JSON", {"initial_state": [{"content": {}}]}),
    ("M_BAD_JSON", {"initial_state": [{"type": "m", "content": {"x": 1.5}}]}),
    ("M_BAD_JSON", {"initial_state": [{"type": "m", "content": {"x": 2**53}}]}),
    ("M_TOO_LARGE", {"initial_state": [{"type": "m", "content": {"x": "x" * 65_536}}]}),
    ("M_TOO_LARGE", {"initial_state": [{"type": "m" * 256, "content": {}}]}),
    ("M_TOO_LARGE", {"initial_state": [{"type": "m", "state_key": "é" * 128, "content": {}}]}),
    ("M_TOO_LARGE", {"name": "x" * 65_536}),
    ("M_INVALID_ROOM_STATE", {"initial_state": [{"type": "m.room.create", "content": {}}]}),
    (
        "M_INVALID_ROOM_STATE",
        {"initial_state": [{"type": "m.room.member", "state_key": "@a:b", "content": {}}]},
    ),
    ("M_INVALID_ROOM_STATE", {"power_level_content_override": {"users": {"nobody": 1}}}),
    ("M_INVALID_ROOM_STATE", {"power_level_content_override": {"ban": "50"}}),
    (
        "M_INVALID_ROOM_STATE",
        {"room_version": "11", "power_level_content_override": {"users": {}}},
    ),
    (
        "M_INVALID_ROOM_STATE",
        {"power_level_content_override": {"users": {f"@alice:{SERVER_NAME}": 100}}},
    ),
    ("M_INVALID_PARAM", {"creation_content": {"additional_creators": "bob"}}),
    ("M_INVALID_PARAM", {"creation_content": {"additional_creators": ["bob"]}}),
    ("M_INVALID_PARAM", {"room_alias_name": "a:b"}),
    ("M_INVALID_PARAM", {"room_alias_name": ""}),
    ("M_INVALID_PARAM", {"room_alias_name": "x" * 255}),
    ("M_INVALID_PARAM", {"invite": [f"@u{n}:{SERVER_NAME}" for n in range(101)]}),
    ("M_BAD_JSON", {"invite_3pid": [{"medium": "email", "address": "a@b.example"}]}),
]


async def test_a_room_that_cannot_be_leaves_nothing_behind(server: Running) -> None:
    alice = await server.person("alice")
    for errcode, options in UNUSABLE:
        await alice.refused(errcode, "POST", "/createRoom", body={"name": "N", **options})
        assert await rooms_of(server, alice) == [], options
    options = {"room_alias_name": "wanted", "room_version": "11"}
    override: dict[str, Any] = {"power_level_content_override": {"users": {}}}
    await alice.refused("M_INVALID_ROOM_STATE", "POST", "/createRoom", body={**options, **override})
    await alice.create_room(**options)


async def test_an_alias_that_is_taken_prevents_the_room(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    first = await alice.create_room(room_alias_name="home")
    reply = await bob.refused(
        "M_ROOM_IN_USE", "POST", "/createRoom", body={"room_alias_name": "home"}
    )
    assert reply.status == 400
    assert await rooms_of(server, bob) == []
    await server.restart()
    assert await rooms_of(server, bob) == []
    found = await bob.ok("GET", f"/directory/room/%23home%3A{SERVER_NAME}")
    assert found == {"room_id": first, "servers": [SERVER_NAME]}
