"""Presence between the users of this server, as their clients see it."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.streams import presence as news
from tests.serving import PASSWORD, Person, Running


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"presence": {"enabled": True}}


def path_of(user_id: str) -> str:
    return f"/presence/{quote(user_id, safe='')}/status"


async def put(person: Person, presence: str, **more: Any) -> None:
    await person.ok("PUT", path_of(person.user_id), body={"presence": presence, **more})


def events(answer: Any) -> dict[str, Any]:
    """The presence of an answer by sender."""
    found = answer.get("presence", {}).get("events", [])
    assert all(event["type"] == "m.presence" for event in found)
    by_sender = {event["sender"]: event["content"] for event in found}
    assert len(by_sender) == len(found)
    return by_sender


@pytest.fixture
async def room(server: Running) -> tuple[Person, Person, str]:
    """Alice and Bob in one room."""
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    return alice, bob, room_id


async def test_presence_is_shown_to_those_who_share_a_room(
    server: Running, room: tuple[Person, Person, str]
) -> None:
    alice, bob, _ = room
    stranger = await server.person("stranger")
    await put(alice, "online", status_msg="hello")
    expected = {
        "presence": "online",
        "last_active_ago": 0,
        "currently_active": True,
        "status_msg": "hello",
    }
    for person in (alice, bob):
        assert await person.ok("GET", path_of(alice.user_id)) == expected
        assert events(await person.sync())[alice.user_id] == expected
    assert alice.user_id not in events(await stranger.sync())
    await stranger.refused("M_FORBIDDEN", "GET", path_of(alice.user_id))
    await stranger.refused("M_FORBIDDEN", "GET", path_of("@nobody:test.example"))
    assert await stranger.ok("GET", path_of(stranger.user_id))


async def test_only_changes_are_told(room: tuple[Person, Person, str]) -> None:
    alice, bob, _ = room
    await alice.sync()
    assert events(await bob.sync()).keys() == {alice.user_id, bob.user_id}
    for _ in range(5):
        await alice.sync()
        assert "presence" not in await bob.sync()
    await put(alice, "unavailable")
    assert events(await bob.sync()) == {
        alice.user_id: {"presence": "unavailable", "last_active_ago": 0}
    }


async def test_who_stops_syncing_goes_offline(
    server: Running, room: tuple[Person, Person, str]
) -> None:
    alice, bob, _ = room
    await alice.sync()
    await bob.sync()
    await server.clock.advance(20)
    await bob.sync()
    await server.clock.advance(15)
    told = events(await bob.sync())
    assert told == {alice.user_id: {"presence": "offline", "last_active_ago": 35_000}}


async def test_set_presence_of_a_sync(room: tuple[Person, Person, str]) -> None:
    alice, bob, _ = room
    await alice.sync(set_presence="offline")
    assert alice.user_id not in events(await bob.sync())
    await alice.sync(set_presence="unavailable")
    assert events(await bob.sync())[alice.user_id]["presence"] == "unavailable"
    await alice.refused("M_INVALID_PARAM", "GET", "/sync", query={"set_presence": "busy"})


async def test_sending_makes_active(server: Running, room: tuple[Person, Person, str]) -> None:
    alice, bob, room_id = room
    await alice.sync()
    await bob.sync()
    for _ in range(7):
        await server.clock.advance(10)
        await alice.sync()
        await bob.sync()
    assert (await bob.ok("GET", path_of(alice.user_id)))["currently_active"] is False
    await alice.say(room_id, "still here")
    content = events(await bob.sync())[alice.user_id]
    assert (content["currently_active"], content["last_active_ago"]) == (True, 0)


async def test_a_waiting_poll_is_woken_within_a_second(
    server: Running, room: tuple[Person, Person, str]
) -> None:
    alice, bob, _ = room
    await alice.sync()
    await bob.sync()
    poll = asyncio.create_task(bob.sync(timeout=30_000))
    await server.parked()
    await put(alice, "unavailable", status_msg="lunch")
    await server.clock.advance(1)
    assert events(await poll)[alice.user_id]["status_msg"] == "lunch"


async def test_presence_alone_does_not_answer_a_poll_at_once(
    server: Running, room: tuple[Person, Person, str]
) -> None:
    alice, bob, _ = room
    await bob.sync()
    await put(alice, "unavailable")
    poll = asyncio.create_task(bob.sync(timeout=30_000))
    await server.parked()
    assert not poll.done()
    await server.clock.advance(1)
    assert alice.user_id in events(await poll)
    assert "presence" not in await bob.sync()


async def test_joining_makes_known_to_each_other(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await alice.create_room(preset="public_chat")
    await alice.sync()
    assert events(await bob.sync()).keys() == {bob.user_id}
    await bob.join(room_id)
    assert alice.user_id in events(await bob.sync())
    assert events(await alice.sync()).keys() == {bob.user_id}
    await bob.ok("PUT", f"/profile/{quote(bob.user_id)}/displayname", body={"displayname": "B"})
    await alice.sync()
    assert "presence" not in await alice.sync()


async def test_filters_and_ignored_users(room: tuple[Person, Person, str]) -> None:
    alice, bob, _ = room
    await put(alice, "online")
    for source in ('{"presence":{"types":[]}}', '{"presence":{"not_types":["m.*"]}}'):
        assert "presence" not in await bob.sync(remember=False, filter=source)
    own = f'{{"presence":{{"senders":["{bob.user_id}"]}}}}'
    assert events(await bob.sync(remember=False, filter=own)).keys() == {bob.user_id}
    ignored: dict[str, Any] = {"ignored_users": {alice.user_id: {}}}
    await bob.ok(
        "PUT",
        f"/user/{quote(bob.user_id)}/account_data/m.ignored_user_list",
        body=ignored,
    )
    assert events(await bob.sync(since=None)).keys() == {bob.user_id}


async def test_a_restart_shows_nobody_for_ever(
    server: Running, room: tuple[Person, Person, str]
) -> None:
    alice, bob, _ = room
    await put(alice, "online", status_msg="hello")
    await bob.sync()
    await server.restart()
    told = events(await bob.sync())
    assert told[alice.user_id]["status_msg"] == "hello"
    await server.clock.advance(40)
    assert events(await bob.sync())[alice.user_id]["presence"] == "offline"


async def test_a_closed_account_leaves_no_presence(
    server: Running, room: tuple[Person, Person, str]
) -> None:
    alice, bob, _ = room
    await put(alice, "online", status_msg="private words")
    await server.restart()
    user = {"type": "m.id.user", "user": alice.user_id}
    auth = {"type": "m.login.password", "identifier": user, "password": PASSWORD}
    await alice.ok("POST", "/account/deactivate", body={"auth": auth})
    await server.restart()
    await alice.refused("M_UNKNOWN_TOKEN", "GET", path_of(alice.user_id))
    assert "private words" not in str(await bob.sync(since=None))


async def test_bad_presence_changes_nothing(room: tuple[Person, Person, str]) -> None:
    alice, bob, _ = room
    path = path_of(alice.user_id)
    await alice.refused("M_BAD_JSON", "PUT", path, body={"presence": "busy"})
    await alice.refused("M_MISSING_PARAM", "PUT", path, body={"status_msg": "x"})
    await alice.refused(
        "M_TOO_LARGE", "PUT", path, body={"presence": "online", "status_msg": "x" * 1_001}
    )
    await bob.refused("M_FORBIDDEN", "PUT", path, body={"presence": "online"})
    assert await alice.ok("GET", path) == {"presence": "offline"}


async def test_many_changes_are_told_as_few_are(
    server: Running, room: tuple[Person, Person, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob, _ = room
    stranger = await server.person("stranger")
    await bob.sync()
    for few in (16, 0):
        monkeypatch.setattr(news, "FEW", few)
        for state in ("online", "unavailable"):
            await put(alice, state)
            await put(stranger, state)
            assert events(await bob.sync())[alice.user_id]["presence"] == state
    assert stranger.user_id not in events(await bob.sync(since=None))
    assert events(await bob.sync(since=None)).keys() == {alice.user_id, bob.user_id}
