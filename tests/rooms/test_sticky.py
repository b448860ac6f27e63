"""Sticky events are told to everybody in the room while they last (MSC4354)."""

import asyncio
from typing import Any

import pytest

from homeserver.rooms import sticky
from tests.rooms.paths import at
from tests.rooms.test_delayed import DELAY, settled
from tests.serving import PASSWORD, Person, Running

DURATION = "org.matrix.msc4354.sticky_duration_ms"
LEFT = "msc4354_sticky_duration_ttl_ms"


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A test may want everything to be told from the tables alone."""
    return {"sync": {"ring_bytes": 0}} if getattr(request, "param", "ring") == "tables" else {}


async def stick(person: Person, room: str, text: str, ms: int = 600_000, **query: Any) -> str:
    """Send a sticky event; its id."""
    path = at(room, "send", "m.rtc.member", f"txn-{text}")
    body = {"body": text, "msc4354_sticky_key": text}
    sent = await person.ok("PUT", path, body=body, query={DURATION: ms, **query})
    return str(sent.get("event_id"))


def told(answer: Any, room: str) -> list[Any]:
    joined = answer.get("rooms", {}).get("join", {}).get(room, {})
    return list(joined.get("msc4354_sticky", {}).get("events", []))


def bodies(answer: Any, room: str) -> list[str]:
    return [event["content"]["body"] for event in told(answer, room)]


def timeline(answer: Any, room: str) -> list[Any]:
    joined = answer.get("rooms", {}).get("join", {}).get(room, {})
    return list(joined.get("timeline", {}).get("events", []))


async def together(server: Running) -> tuple[Person, Person, str]:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    await bob.sync()
    return alice, bob, room


@pytest.mark.parametrize("settings", ["ring", "tables"], indirect=True)
async def test_they_come_however_much_else_was_said(server: Running) -> None:
    alice, bob, room = await together(server)
    first = await stick(alice, room, "first")
    await server.clock.advance(10)
    for number in range(30):
        await alice.say(room, str(number))
    answer = await bob.sync()
    (event,) = told(answer, room)
    assert first not in {one["event_id"] for one in timeline(answer, room)}
    assert (event["event_id"], event["sender"]) == (first, alice.user_id)
    assert event["msc4354_sticky"] == {"duration_ms": 600_000}
    assert event["unsigned"][LEFT] == 590_000
    assert told(await bob.sync(timeout=0), room) == [], "each comes once"
    await server.restart()
    carol = await server.person("carol")
    await carol.join(room)
    assert bodies(await carol.sync(), room) == ["first"]


async def test_what_stands_in_the_timeline_is_not_told_twice(server: Running) -> None:
    alice, bob, room = await together(server)
    await bob.sync()
    waiting = asyncio.create_task(bob.sync(timeout=30_000))
    await server.parked()
    sent = await stick(alice, room, "now")
    answer = await waiting
    assert told(answer, room) == []
    (event,) = timeline(answer, room)
    assert event["event_id"] == sent
    assert event["unsigned"][LEFT] == 600_000
    await stick(alice, room, "unwanted")
    nothing = '{"room":{"timeline":{"not_types":["m.rtc.member"]}}}'
    assert bodies(await bob.sync(filter=nothing), room) == ["unwanted"]


async def test_they_end_by_themselves(server: Running) -> None:
    alice, bob, room = await together(server)
    await stick(alice, room, "short", 5_000)
    long = await stick(alice, room, "long", 3_600_000)
    for number in range(30):
        await alice.say(room, str(number))
    await server.clock.advance(5)
    assert bodies(await bob.sync(), room) == ["long"]
    shown = await alice.ok("GET", at(room, "event", long))
    assert shown["unsigned"][LEFT] == 3_595_000
    await server.clock.advance(3_600)
    shown = await alice.ok("GET", at(room, "event", long))
    assert LEFT not in shown["unsigned"]
    assert shown["msc4354_sticky"] == {"duration_ms": 3_600_000}
    await server.restart()
    assert told(await bob.sync(since="", full_state="true"), room) == []


async def test_who_was_not_there_sees_them_but_nobody_else(server: Running) -> None:
    alice = await server.person("alice")
    state = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
    room = await alice.create_room(preset="public_chat", initial_state=[state])
    await stick(alice, room, "before you came")
    bob, eve = await server.person("bob"), await server.person("eve")
    await bob.sync()
    await bob.join(room)
    assert bodies(await bob.sync(), room) == ["before you came"]
    await bob.ok("POST", at(room, "leave"), body={})
    await stick(alice, room, "after you left")
    assert "msc4354_sticky" not in str(await bob.sync(timeout=0))
    assert "msc4354_sticky" not in str(await eve.sync(timeout=0))
    await bob.ok("PUT", f"/user/{bob.user_id}/account_data/m.ignored_user_list",
                 body={"ignored_users": {alice.user_id: {}}})  # fmt: skip
    await bob.join(room)
    assert told(await bob.sync(), room) == []


async def test_a_redacted_one_is_sticky_no_more(server: Running) -> None:
    alice, bob, room = await together(server)
    gone = await stick(alice, room, "gone")
    kept = await stick(alice, room, "kept")
    await alice.ok("PUT", at(room, "redact", gone, "t"), body={})
    for number in range(30):
        await alice.say(room, str(number))
    assert [one["event_id"] for one in told(await bob.sync(), room)] == [kept]
    shown = await bob.ok("GET", at(room, "event", gone))
    assert "msc4354_sticky" not in shown
    assert LEFT not in shown["unsigned"]


async def test_one_may_be_sent_later(server: Running) -> None:
    alice, bob, room = await together(server)
    await stick(alice, room, "later", 60_000, **{DELAY: 1_000})
    await server.restart()
    await server.clock.advance(2)
    await settled(alice, 0)
    (event,) = timeline(await bob.sync(), room)
    assert event["msc4354_sticky"] == {"duration_ms": 60_000}


async def test_what_an_erased_user_has_sent_is_told_no_more(server: Running) -> None:
    alice, bob, room = await together(server)
    eve = await server.person("eve")
    await eve.join(room)
    await stick(eve, room, "erase me")
    await stick(alice, room, "kept")
    auth = {"type": "m.login.password", "password": PASSWORD, "user": eve.user_id}
    await eve.ok("POST", "/account/deactivate", body={"erase": True, "auth": auth})
    for number in range(30):
        await alice.say(room, str(number))
    assert bodies(await bob.sync(), room) == ["kept"]


@pytest.mark.parametrize("ms", [-1, 3_600_001, "soon"])
async def test_durations_that_are_none_are_refused(server: Running, ms: Any) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    path = at(room, "send", "m.rtc.member", "t")
    for query in ({DURATION: ms}, {DURATION: ms, DELAY: 1_000}):
        await alice.refused("M_INVALID_PARAM", "PUT", path, body={}, query=query)


async def test_of_a_flood_the_last_ones_are_told(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sticky, "MAX_TOLD", 3)
    alice, bob, room = await together(server)
    for number in range(5):
        await stick(alice, room, str(number))
    for number in range(30):
        await alice.say(room, str(number))
    assert bodies(await bob.sync(), room) == ["2", "3", "4"]


async def test_clients_are_told_that_there_are_any(server: Running) -> None:
    versions = await server.request("GET", "/_matrix/client/versions")
    assert versions.body["unstable_features"]["org.matrix.msc4354"] is True
