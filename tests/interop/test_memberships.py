"""Users of ours in Synapse's rooms, and users of Synapse in ours: every change of a membership.

Each test runs in both roles: the room is one server's, the guest is of the other.
"""

from typing import Any

import pytest

from tests.federation.house import until
from tests.federation.servers import Peer
from tests.rooms.paths import at
from tests.serving import Person

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROLES = [("synapse", "ours"), ("ours", "synapse")]
both_roles = pytest.mark.parametrize(("host", "guest"), ROLES, ids=["their-room", "our-room"])
versions = pytest.mark.parametrize("version", ["6", "10", "11", "12"])


async def pair(peers: dict[str, Peer], host: str, guest: str) -> tuple[Person, Person]:
    return await peers[host].person(), await peers[guest].person()


def server_of(person: Person) -> str:
    return person.user_id.partition(":")[2]


async def join(person: Person, room: str, via: Person) -> None:
    await person.ok("POST", f"/join/{room}?server_name={server_of(via)}", body={})


async def members(person: Person, room: str) -> dict[str, str]:
    found = await person.ok("GET", at(room, "members"))
    return {one["state_key"]: one["content"]["membership"] for one in found["chunk"]}


async def becomes(person: Person, room: str, user: Person, membership: str) -> None:
    """Wait until the person sees this membership of the user."""

    async def look() -> bool:
        reply = await person.raw("GET", at(room, "state", "m.room.member", user.user_id))
        return reply.status == 200 and reply.body["membership"] == membership

    await until(look)


async def seen(person: Person, section: str, room: str) -> Any:
    async def look() -> Any:
        rooms = (await person.sync(timeout=1_000)).get("rooms", {})
        return rooms.get(section, {}).get(room)

    return await until(look)


@versions
@both_roles
async def test_a_public_room_is_joined_left_and_joined_again(
    peers: dict[str, Peer], host: str, guest: str, version: str
) -> None:
    alice, bob = await pair(peers, host, guest)
    room = await alice.create_room(preset="public_chat", room_version=version, name="Here")
    await join(bob, room, alice)
    assert await members(bob, room) == {alice.user_id: "join", bob.user_id: "join"}
    await becomes(alice, room, bob, "join")
    assert await bob.ok("GET", at(room, "state", "m.room.name")) == {"name": "Here"}


@versions
@both_roles
async def test_an_invite_is_seen_and_accepted(
    peers: dict[str, Peer], host: str, guest: str, version: str
) -> None:
    alice, bob = await pair(peers, host, guest)
    room = await alice.create_room(room_version=version, name="Secret")
    await alice.ok("POST", at(room, "invite"), body={"user_id": bob.user_id})
    invite = await seen(bob, "invite", room)
    assert "Secret" in str(invite["invite_state"])
    await becomes(alice, room, bob, "invite")
    await join(bob, room, alice)
    await becomes(alice, room, bob, "join")


@both_roles
async def test_an_invite_is_declined(peers: dict[str, Peer], host: str, guest: str) -> None:
    alice, bob = await pair(peers, host, guest)
    room = await alice.create_room()
    await alice.ok("POST", at(room, "invite"), body={"user_id": bob.user_id})
    await seen(bob, "invite", room)
    await bob.ok("POST", at(room, "leave"), body={})
    await becomes(alice, room, bob, "leave")


@both_roles
async def test_a_knock_is_answered(peers: dict[str, Peer], host: str, guest: str) -> None:
    alice, bob = await pair(peers, host, guest)
    room = await alice.create_room(room_version="11", name="Door")
    await alice.put_state(room, "m.room.join_rules", {"join_rule": "knock"})
    await bob.ok("POST", f"/knock/{room}?server_name={server_of(alice)}", body={"reason": "hi"})
    await becomes(alice, room, bob, "knock")
    knock = await seen(bob, "knock", room)
    assert "Door" in str(knock["knock_state"])
    await alice.ok("POST", at(room, "invite"), body={"user_id": bob.user_id})
    await seen(bob, "invite", room)
    await join(bob, room, alice)
    await becomes(alice, room, bob, "join")


@pytest.mark.parametrize(("rule", "version"), [("restricted", "9"), ("knock_restricted", "12")])
@both_roles
async def test_members_of_another_room_are_let_in(
    peers: dict[str, Peer], host: str, guest: str, rule: str, version: str
) -> None:
    alice, bob = await pair(peers, host, guest)
    space = await alice.create_room(preset="public_chat")
    room = await alice.create_room(room_version=version)
    allow = [{"type": "m.room_membership", "room_id": space}]
    await alice.put_state(room, "m.room.join_rules", {"join_rule": rule, "allow": allow})
    path = f"/join/{room}?server_name={server_of(alice)}"
    assert (await bob.raw("POST", path, body={})).status == 403
    await join(bob, space, alice)
    await join(bob, room, alice)
    await becomes(alice, room, bob, "join")
    content = await bob.ok("GET", at(room, "state", "m.room.member", bob.user_id))
    assert content["join_authorised_via_users_server"] == alice.user_id
