"""Ours and Synapse in one room: what is said, changed, redacted and read arrives at the other.

Each test runs in both roles: the room is one server's, the guest is of the other.
"""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from tests.federation.house import until
from tests.federation.servers import Peer
from tests.interop.test_memberships import both_roles, join, pair, server_of, versions
from tests.rooms.paths import at
from tests.serving import Person

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def hears(person: Person, room: str, wanted: Callable[[Any], bool]) -> Any:
    """The first event of the room's timeline that is wanted, once it comes down /sync."""

    async def look() -> Any:
        answer = await person.sync(timeout=1_000)
        timeline = answer.get("rooms", {}).get("join", {}).get(room, {}).get("timeline", {})
        return next((event for event in timeline.get("events", ()) if wanted(event)), None)

    return await until(look)


async def ephemeral(person: Person, room: str, event_type: str, user_id: str) -> Any:
    """The content of an ephemeral event that names the user."""

    async def look() -> Any:
        answer = await person.sync(timeout=1_000)
        joined = answer.get("rooms", {}).get("join", {}).get(room, {})
        for event in joined.get("ephemeral", {}).get("events", ()):
            if event["type"] == event_type and user_id in str(event["content"]):
                return event["content"]
        return None

    return await until(look)


async def shared(
    peers: dict[str, Peer], host: str, guest: str, version: str = "11", **options: Any
) -> tuple[Person, Person, str]:
    """Alice's room, which Bob of the other server has joined; both have synced."""
    alice, bob = await pair(peers, host, guest)
    room = await alice.create_room(preset="public_chat", room_version=version, **options)
    await join(bob, room, alice)
    await hears(alice, room, lambda event: event.get("state_key") == bob.user_id)
    await bob.sync()
    return alice, bob, room


@versions
@both_roles
async def test_what_is_said_and_changed_is_heard(
    peers: dict[str, Peer], host: str, guest: str, version: str
) -> None:
    alice, bob, room = await shared(peers, host, guest, version)
    said = await alice.say(room, "hello")
    assert (await hears(bob, room, lambda event: event["event_id"] == said))["sender"] == (
        alice.user_id
    )
    answered = await bob.say(room, "hello yourself")
    await hears(alice, room, lambda event: event["event_id"] == answered)
    named = await alice.put_state(room, "m.room.topic", {"topic": "Weather"})
    await hears(bob, room, lambda event: event["event_id"] == named)
    assert await bob.ok("GET", at(room, "state", "m.room.topic")) == {"topic": "Weather"}
    redaction = await alice.ok("PUT", at(room, "redact", said, "r1"), body={})
    await hears(bob, room, lambda event: event["event_id"] == redaction["event_id"])
    assert (await bob.ok("GET", at(room, "event", said)))["content"] == {}
    own = await bob.ok("PUT", at(room, "redact", answered, "r2"), body={})
    await hears(alice, room, lambda event: event["event_id"] == own["event_id"])
    assert (await alice.ok("GET", at(room, "event", answered)))["content"] == {}


@both_roles
async def test_who_leaves_is_kicked_or_banned_is_gone_on_both(
    peers: dict[str, Peer], host: str, guest: str
) -> None:
    alice, bob, room = await shared(peers, host, guest)

    def membership(value: str) -> Callable[[Any], bool]:
        return lambda event: (
            event.get("state_key") == bob.user_id and event["content"]["membership"] == value
        )

    await bob.ok("POST", at(room, "leave"), body={})
    await hears(alice, room, membership("leave"))
    await join(bob, room, alice)
    await hears(alice, room, membership("join"))
    for change, value in (("kick", "leave"), ("ban", "ban")):
        await bob.sync()
        await alice.ok("POST", at(room, change), body={"user_id": bob.user_id, "reason": "x"})

        async def gone() -> bool:
            left = (await bob.sync(timeout=1_000)).get("rooms", {}).get("leave", {})
            return room in left

        await until(gone)
        if value == "leave":
            await join(bob, room, alice)
    reply = await bob.raw("POST", f"/join/{room}?server_name={server_of(alice)}", body={})
    assert reply.status == 403


@both_roles
async def test_typing_and_receipts_arrive(peers: dict[str, Peer], host: str, guest: str) -> None:
    alice, bob, room = await shared(peers, host, guest)
    said = await alice.say(room, "read this")
    await hears(bob, room, lambda event: event["event_id"] == said)
    typing = at(room, "typing", bob.user_id)
    await bob.ok("PUT", typing, body={"typing": True, "timeout": 20_000})
    await ephemeral(alice, room, "m.typing", bob.user_id)
    await bob.ok("POST", at(room, "receipt", "m.read", said), body={})
    content = await ephemeral(alice, room, "m.receipt", bob.user_id)
    assert bob.user_id in content[said]["m.read"]


@both_roles
async def test_profiles_and_aliases_are_found(
    peers: dict[str, Peer], host: str, guest: str
) -> None:
    alice, bob = await pair(peers, host, guest)
    profile = f"/profile/{alice.user_id}"
    await alice.ok("PUT", f"{profile}/displayname", body={"displayname": "Alice É"})
    assert (await bob.ok("GET", profile))["displayname"] == "Alice É"
    localpart = alice.user_id[1:].partition(":")[0]
    room = await alice.create_room(
        preset="public_chat", room_alias_name=localpart, visibility="public", name=localpart
    )
    alias = f"#{localpart}:{server_of(alice)}"
    found = await bob.ok("GET", f"/directory/room/{quote(alias)}")
    assert found["room_id"] == room
    await bob.ok("POST", f"/join/{quote(alias)}", body={})
    if host == "ours":  # Synapse publishes no rooms unless it is told to
        listed = await bob.ok("GET", f"/publicRooms?server={quote(server_of(alice))}")
        assert room in {one["room_id"] for one in listed["chunk"]}


@versions
@both_roles
async def test_history_from_before_the_join_is_read(
    peers: dict[str, Peer], host: str, guest: str, version: str
) -> None:
    alice, bob = await pair(peers, host, guest)
    room = await alice.create_room(preset="public_chat", room_version=version)
    said = [await alice.say(room, f"line {number}") for number in range(15)]
    await join(bob, room, alice)

    async def told() -> bool:
        page = await bob.ok("GET", at(room, "messages"), query={"dir": "b", "limit": 50})
        found = {event["event_id"] for event in page["chunk"]}
        return found.issuperset(said)

    await until(told)
