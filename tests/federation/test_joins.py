"""Users of one server join rooms of another.

spec: server-server-api#joining-rooms
"""

import itertools
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
import trustme

from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import build
from homeserver.matrix.sign import event_id_of
from homeserver.matrix.versions import ROOM_VERSIONS
from tests.federation.house import Guest, House, house, until
from tests.rooms.paths import at
from tests.serving import Person

pytestmark = pytest.mark.asyncio(loop_scope="module")

VERSIONS = [str(number) for number in range(1, 13)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with house(authority, tmp_path_factory.mktemp("joins")) as house_made:
        await house_made.start("a.example", "b.example")
        yield house_made


_count = itertools.count()


def signed_invite(guest: Guest, room: str, sender: str, target: str) -> JsonObject:
    """An invite that the guest has made and signed; nobody else knows the room."""
    event, _ = build(
        ROOM_VERSIONS["10"],
        room_id=room,
        sender=sender,
        type="m.room.member",
        content={"membership": "invite"},
        state_key=target,
        prev_event_ids=["$prev"],
        auth_event_ids=["$create"],
        depth=7,
        origin_server_ts=guest.keys.clock.now_ms(),
        sign=guest.keys.key,
        server_name=guest.name,
    )
    return event.pdu


def create_of(room: str, sender: str) -> list[JsonObject]:
    content = {"room_version": "10", "creator": sender}
    return [{"type": "m.room.create", "state_key": "", "sender": sender, "content": content}]


async def person(made: House, server: str) -> Person:
    return await made.servers[server].person(f"user{next(_count)}")


async def join(person: Person, room: str, *via: str) -> None:
    path = f"/join/{room}?" + "&".join(f"via={one}" for one in via)
    await person.ok("POST", path, body={})


async def members(person: Person, room: str) -> dict[str, str]:
    found = await person.ok("GET", at(room, "members"))
    return {one["state_key"]: one["content"]["membership"] for one in found["chunk"]}


@pytest.mark.parametrize("version", VERSIONS)
async def test_rooms_of_every_version_are_joined(made: House, version: str) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    room = await alice.create_room(preset="public_chat", room_version=version, name="Here")
    await join(bob, room, "a.example")
    assert await members(bob, room) == {alice.user_id: "join", bob.user_id: "join"}
    assert await members(alice, room) == {alice.user_id: "join", bob.user_id: "join"}
    name = await bob.ok("GET", at(room, "state", "m.room.name"))
    assert name == {"name": "Here"}
    synced = (await bob.sync())["rooms"]["join"][room]
    keys = {event["type"] for event in synced["state"]["events"]}
    assert {"m.room.create", "m.room.name", "m.room.member", "m.room.join_rules"} <= keys
    assert [event["sender"] for event in synced["timeline"]["events"]] == [bob.user_id]
    assert synced["summary"]["m.joined_member_count"] == 2
    await bob.say(room, "I am here")


async def seen(person: Person, section: str, room: str) -> Any:
    """The room's part of a section of /sync, once it is there."""

    async def look() -> Any:
        rooms = (await person.sync(timeout=1_000)).get("rooms", {})
        return rooms.get(section, {}).get(room)

    return await until(look)


@pytest.mark.parametrize("version", ["1", "6", "10", "11", "12"])
async def test_invited_users_see_what_the_room_is_and_join(made: House, version: str) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    room = await alice.create_room(room_version=version, name="Secret", invite=[bob.user_id])
    invite = await seen(bob, "invite", room)
    state = {event["type"]: event for event in invite["invite_state"]["events"]}
    assert state["m.room.name"]["content"] == {"name": "Secret"}
    assert state["m.room.create"]["sender"] == alice.user_id
    assert state["m.room.member"]["sender"] in (alice.user_id, bob.user_id)
    assert all(set(one) == {"type", "state_key", "sender", "content"} for one in state.values())
    assert (await members(alice, room))[bob.user_id] == "invite"
    await join(bob, room)  # the inviting server is asked without being named
    assert (await members(bob, room))[alice.user_id] == "join"
    assert (await members(alice, room))[bob.user_id] == "join"


async def test_an_invite_is_declined_at_once_and_the_server_is_told(made: House) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    room = await alice.create_room(invite=[bob.user_id])
    await seen(bob, "invite", room)
    await bob.ok("POST", at(room, "leave"), body={"reason": "no"})
    left = await seen(bob, "leave", room)
    assert [event["content"]["membership"] for event in left["timeline"]["events"]] == ["leave"]

    async def told() -> bool:
        return (await members(alice, room))[bob.user_id] == "leave"

    await until(told)
    await bob.ok("POST", at(room, "forget"), body={})
    await alice.ok("POST", at(room, "invite"), body={"user_id": bob.user_id})
    await seen(bob, "invite", room)
    await join(bob, room)


async def test_a_declined_invite_does_not_wait_for_a_server_that_is_down(
    made: House, authority: trustme.CA
) -> None:
    guest = await made.guest("gone.example")
    b = made.servers["b.example"]
    bob = await person(made, "b.example")
    room = "!r:gone.example"
    sender = guest.user("eve")
    pdu = signed_invite(guest, room, sender, bob.user_id)
    body = {"room_version": "10", "event": pdu, "invite_room_state": create_of(room, sender)}
    event_id = quote(event_id_of(pdu, ROOM_VERSIONS["10"]))
    path = f"/_matrix/federation/v2/invite/{quote(room)}/{event_id}"
    reply = await guest.request(b, "PUT", path, body)
    assert reply.status == 200, reply.body
    assert set(reply.body["event"]["signatures"]) == {"gone.example", "b.example"}
    await seen(bob, "invite", room)
    await guest.server.stop()
    began = time.monotonic()
    await bob.ok("POST", at(room, "leave"), body={})
    await bob.ok("POST", at(room, "forget"), body={})
    assert time.monotonic() - began < 0.5
    assert room not in (await bob.sync(since=None)).get("rooms", {}).get("invite", {})


@pytest.mark.parametrize("version", ["7", "11", "12"])
async def test_knocking_shows_the_room_and_is_answered_by_an_invite(
    made: House, version: str
) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    room = await alice.create_room(room_version=version, name="Door")
    await bob.refused("M_FORBIDDEN", "POST", f"/knock/{room}?via=a.example", body={})
    await alice.put_state(room, "m.room.join_rules", {"join_rule": "knock"})
    await bob.ok("POST", f"/knock/{room}?via=a.example", body={"reason": "please"})
    knock = await seen(bob, "knock", room)
    assert "Door" in str(knock["knock_state"])
    assert (await members(alice, room))[bob.user_id] == "knock"
    await alice.ok("POST", at(room, "invite"), body={"user_id": bob.user_id})
    await seen(bob, "invite", room)
    await join(bob, room)
    assert (await members(bob, room))[bob.user_id] == "join"


async def test_restricted_joins_are_signed_by_the_resident_server(made: House) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    space = await alice.create_room(preset="public_chat")
    for version in ("8", "9", "10", "11", "12"):
        room = await alice.create_room(room_version=version)
        rule = {
            "join_rule": "restricted",
            "allow": [{"type": "m.room_membership", "room_id": space}],
        }
        await alice.put_state(room, "m.room.join_rules", rule)
        if version == "8":
            await bob.refused("M_FORBIDDEN", "POST", f"/join/{room}?via=a.example", body={})
            await join(bob, space, "a.example")
        await join(bob, room, "a.example")
        content = await bob.ok("GET", at(room, "state", "m.room.member", bob.user_id))
        assert content["join_authorised_via_users_server"] == alice.user_id


async def test_what_a_resident_server_does_not_know_it_does_not_authorise(made: House) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    elsewhere = await bob.create_room(preset="public_chat")
    room = await alice.create_room(room_version="11")
    allow = [{"type": "m.room_membership", "room_id": elsewhere}]
    rule = {"join_rule": "restricted", "allow": allow}
    await alice.put_state(room, "m.room.join_rules", rule)
    path = f"/join/{room}?via=a.example"
    await bob.refused("M_UNABLE_TO_AUTHORISE_JOIN", "POST", path, body={})


async def test_the_banned_and_the_excluded_stay_out(made: House) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    room = await alice.create_room(preset="public_chat")
    await alice.ok("POST", at(room, "ban"), body={"user_id": bob.user_id})
    await bob.refused("M_FORBIDDEN", "POST", f"/join/{room}?via=a.example", body={})
    carol = await person(made, "b.example")
    acl = {"allow": ["*"], "deny": ["B.Example"]}
    await alice.put_state(room, "m.room.server_acl", acl)
    await carol.refused("M_FORBIDDEN", "POST", f"/join/{room}?via=a.example", body={})
    await carol.refused("M_NOT_FOUND", "POST", "/join/!none:a.example", body={})
    await carol.refused("M_UNKNOWN", "POST", "/join/!none:nowhere.example", body={})


async def test_a_room_that_was_left_is_joined_again_as_it_is_by_then(made: House) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    carol = await person(made, "a.example")
    room = await alice.create_room(preset="public_chat", name="Before")
    await join(bob, room, "a.example")
    await bob.ok("POST", at(room, "leave"), body={})
    await alice.put_state(room, "m.room.name", {"name": "After"})
    await carol.join(room)
    await join(bob, room, "a.example")
    assert await bob.ok("GET", at(room, "state", "m.room.name")) == {"name": "After"}
    assert (await members(bob, room)).keys() == {alice.user_id, bob.user_id, carol.user_id}
    synced = (await bob.sync(since=None))["rooms"]["join"][room]
    assert synced["summary"]["m.joined_member_count"] == 3
    b = made.servers["b.example"]
    b.stop()
    checked = b.check()
    assert checked.returncode == 0, checked.stdout + checked.stderr
    await made.start("b.example")
    assert await bob.ok("GET", at(room, "state", "m.room.name")) == {"name": "After"}
