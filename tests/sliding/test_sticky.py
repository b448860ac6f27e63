"""Sticky events beside the rooms of sliding sync (MSC4480)."""

import asyncio
from typing import Any

import pytest

from homeserver.rooms import sticky
from tests.rooms.test_sticky import LEFT, stick
from tests.serving import Person, Running
from tests.sliding.client import Sliding, window
from tests.streams.reading import ignore

NAME = "org.matrix.msc4354.sticky_events"


class Client:
    """A client that remembers where it stands among the sticky events."""

    def __init__(self, person: Person, **lists: Any) -> None:
        self.sliding = Sliding(person, lists=lists or {"all": window(limit=1)})
        self.since: str | None = None

    async def sync(self, *, remember: bool = True, timeout: int = 0, **more: Any) -> dict[str, Any]:
        """The texts of the sticky events by room; the whole answer is `answer`."""
        asked = {"enabled": True, **more, **({"since": self.since} if self.since else {})}
        self.sliding.extensions = {NAME: asked}
        self.answer = await self.sliding.sync(timeout=timeout)
        told = self.answer["extensions"].get(NAME, {})
        if remember and told:
            self.since = told["next_batch"]
        self.rooms = told.get("rooms", {})
        return {
            room: [event["content"]["body"] for event in one["events"]]
            for room, one in self.rooms.items()
        }


async def together(server: Running) -> tuple[Person, Person, str]:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    return alice, bob, room


async def test_they_are_told_once_and_not_what_the_timeline_has(server: Running) -> None:
    alice, bob, room = await together(server)
    first = await stick(alice, room, "first")
    await server.clock.advance(10)
    await alice.say(room, "talk")
    await stick(alice, room, "in the timeline")
    client = Client(bob)
    assert await client.sync() == {room: ["first"]}
    (event,) = client.rooms[room]["events"]
    assert (event["event_id"], event["sender"]) == (first, alice.user_id)
    assert event["unsigned"][LEFT] == 590_000
    assert event["msc4354_sticky"] == {"duration_ms": 600_000}
    assert await client.sync() == {}
    assert NAME not in client.answer["extensions"]
    await stick(alice, room, "live")
    assert await client.sync() == {}
    (told,) = client.answer["rooms"][room]["timeline"]
    assert told["content"]["body"] == "live"


async def test_what_was_not_received_is_told_again(server: Running) -> None:
    alice, bob, room = await together(server)
    await stick(alice, room, "first")
    await alice.say(room, "talk")
    client = Client(bob)
    assert await client.sync(remember=False) == {room: ["first"]}
    assert await client.sync() == {room: ["first"]}
    assert await client.sync() == {}
    client.sliding.pos = None  # a new connection goes on from where the client stands
    assert await client.sync() == {}
    client.since = None
    assert await client.sync() == {room: ["first"]}
    client.since = "nonsense"
    asked = {NAME: {"enabled": True, "since": client.since}}
    reply = await client.sliding.ask(extensions=asked)
    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")


async def test_a_limit_gives_the_oldest_first(server: Running) -> None:
    alice, bob, room = await together(server)
    other = await alice.create_room(preset="public_chat")
    await bob.join(other)
    for number in range(3):
        await stick(alice, room, f"here {number}")
        await stick(alice, other, f"there {number}")
    for each in (room, other):
        await alice.say(each, "talk")
    client = Client(bob)
    assert await client.sync(limit=3) == {room: ["here 0", "here 1"], other: ["there 0"]}
    assert await client.sync(limit=0) == {other: ["there 1"]}
    assert await client.sync(limit=100) == {room: ["here 2"], other: ["there 2"]}
    assert await client.sync(limit=100) == {}


async def test_rooms_outside_the_window_count_and_those_of_no_list_do_not(server: Running) -> None:
    alice, bob, room = await together(server)
    direct = await alice.create_room(preset="public_chat", creation_content={"type": "m.space"})
    await bob.join(direct)
    newer = await alice.create_room(preset="public_chat")
    await bob.join(newer)
    for each in (room, direct):
        await stick(alice, each, "sticky")
    await alice.say(room, "talk")
    await alice.say(newer, "talk")
    client = Client(bob, rooms=window((0, 0), limit=1, not_room_types=["m.space"]))
    assert await client.sync() == {room: ["sticky"]}
    assert list(client.answer["rooms"]) == [newer]


async def test_who_joins_is_told_all_that_is_sticky(server: Running) -> None:
    alice, _, room = await together(server)
    carol = await server.person("carol")
    client = Client(carol)
    await stick(alice, room, "first")
    await stick(alice, room, "second")
    elsewhere = await alice.create_room(preset="public_chat")
    await carol.join(elsewhere)
    await stick(alice, elsewhere, "elsewhere")
    await alice.say(elsewhere, "talk")
    assert await client.sync() == {elsewhere: ["elsewhere"]}
    await carol.join(room)
    assert await client.sync(limit=1) == {room: ["first", "second"]}
    assert await client.sync() == {}
    # Another name is not another join.
    await carol.put_state(
        room, "m.room.member", {"membership": "join", "displayname": "C"}, carol.user_id
    )
    assert await client.sync() == {}
    await carol.ok("POST", f"/rooms/{room}/leave", body={})
    await stick(alice, room, "third")
    assert await client.sync() == {}


async def test_ignored_users_and_what_is_over_are_not_told(server: Running) -> None:
    alice, bob, room = await together(server)
    carol = await server.person("carol")
    await carol.join(room)
    await stick(alice, room, "short", 10_000)
    await stick(carol, room, "ignored")
    gone = await stick(alice, room, "taken back")
    await alice.ok("PUT", f"/rooms/{room}/redact/{gone}/1", body={})
    await ignore(bob, carol)
    await server.clock.advance(20)
    client = Client(bob)
    assert await client.sync() == {}


async def test_a_request_that_waits_is_answered(server: Running) -> None:
    alice, bob, room = await together(server)
    client = Client(bob, spaces=window((0, 0), room_types=["m.space"]), all=window((5, 5)))
    assert await client.sync() == {}
    polling = asyncio.create_task(client.sync(timeout=30_000))
    await server.parked()
    await stick(alice, room, "live")
    assert await polling == {room: ["live"]}


async def test_what_is_long_comes_in_parts(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sticky, "MAX_BYTES", 1_500)
    alice, bob, room = await together(server)
    for letter in "abc":
        await stick(alice, room, letter * 200)
    await alice.say(room, "talk")
    client = Client(bob)
    told = [await client.sync() for _ in range(4)]
    texts = [text for one in told for text in one.get(room, [])]
    assert texts == [letter * 200 for letter in "abc"]
    assert len(told[0][room]) < 3
    assert told[-1] == {}


async def test_a_flood_is_bounded(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sticky, "MAX_TOLD", 2)
    alice, bob, room = await together(server)
    for number in range(3):
        await stick(alice, room, str(number))
    await alice.say(room, "talk")
    client = Client(bob)
    assert await client.sync() == {room: ["0", "1"]}
    assert await client.sync() == {room: ["2"]}
