"""What is redacted is gone, wherever it was shown.

spec: client-server-api#redactions
"""

from typing import Any

import pytest

from tests.rooms.paths import at
from tests.serving import Person, Running

VERSIONS = [str(number) for number in range(1, 13)]


async def redact(person: Person, room_id: str, event_id: str, txn_id: str, **body: Any) -> str:
    path = at(room_id, "redact", event_id, txn_id)
    return str((await person.ok("PUT", path, body=body))["event_id"])


async def event(person: Person, room_id: str, event_id: str) -> dict[str, Any]:
    found: dict[str, Any] = await person.ok("GET", at(room_id, "event", event_id))
    return found


async def everything(person: Person, room_id: str) -> str:
    """All that a client can read of a room, as one text."""
    parts = [
        await person.ok("GET", at(room_id, "messages"), query={"dir": "b", "limit": 500}),
        await person.ok("GET", at(room_id, "state")),
        await person.sync(remember=False, since=None),
        await person.sync(remember=False, since=None, full_state="true"),
    ]
    return str(parts)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_redaction_takes_the_content_away(server: Running, version: str) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(room_version=version, preset="public_chat")
    await bob.join(room)
    sent = await bob.say(room, "a word too many")
    await alice.sync()
    redaction = await redact(bob, room, sent, "1", reason="sorry")
    assert await redact(bob, room, sent, "1", reason="again") == redaction
    news = (await alice.sync())["rooms"]["join"][room]["timeline"]["events"]
    assert [one["event_id"] for one in news] == [redaction]
    for one in (news[0], await event(alice, room, redaction)):
        assert one["redacts"] == one["content"]["redacts"] == sent
        assert one["content"]["reason"] == "sorry"
    for restarted in (False, True):
        if restarted:
            await server.restart()
        left = await event(alice, room, sent)
        assert left["content"] == {}
        because = left["unsigned"]["redacted_because"]
        assert (because["event_id"], because["sender"]) == (redaction, bob.user_id)
        assert (because["redacts"], because["content"]["reason"]) == (sent, "sorry")
        assert because["room_id"] == room
        assert "a word too many" not in await everything(alice, room)


async def test_who_may_redact(server: Running) -> None:
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    room = await alice.create_room(
        room_version="11",
        preset="public_chat",
        power_level_content_override={"redact": 60, "events": {"m.room.redaction": 20}},
    )
    levels = await alice.ok("GET", at(room, "state", "m.room.power_levels"))
    users = {**levels["users"], bob.user_id: 59, carol.user_id: 60}
    await alice.put_state(room, "m.room.power_levels", {**levels, "users": users})
    for person in (bob, carol):
        await person.join(room)
    of_alice, of_bob = await alice.say(room, "alice's"), await bob.say(room, "bob's")
    for path in (at(room, "redact", of_alice, "1"), at(room, "send", "m.room.redaction", "1")):
        await bob.refused("M_FORBIDDEN", "PUT", path, body={"redacts": of_alice})
    assert (await event(alice, room, of_alice))["content"]["body"] == "alice's"
    await redact(bob, room, of_bob, "2")
    await redact(carol, room, of_alice, "1")
    dave = await server.person("dave")
    await dave.join(room)
    of_dave = await dave.say(room, "dave's")
    await dave.refused("M_FORBIDDEN", "PUT", at(room, "redact", of_dave, "1"), body={})


@pytest.mark.parametrize("version", ["1", "2", "3", "10", "11", "12"])
async def test_redactions_can_be_sent_like_messages(server: Running, version: str) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(room_version=version)
    sent = await alice.say(room, "oops")
    redaction = await alice.send(room, "m.room.redaction", {"redacts": sent, "reason": "r"})
    assert (await event(alice, room, sent))["content"] == {}
    shown = await event(alice, room, redaction)
    assert shown["redacts"] == shown["content"]["redacts"] == sent
    path = at(room, "send", "m.room.redaction", "x")
    await alice.refused("M_MISSING_PARAM", "PUT", path, body={})
    for nonsense in ("nothing", "$\0", "$" + "x" * 300):
        await alice.refused("M_INVALID_PARAM", "PUT", path, body={"redacts": nonsense})
    await alice.refused("M_INVALID_PARAM", "PUT", at(room, "state", "m.room.redaction"), body={})


async def test_only_events_of_the_room_can_be_redacted(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room, other = await alice.create_room(), await alice.create_room()
    sent = await alice.say(other, "elsewhere")
    for unknown in (sent, "$unknown", "$unknown:test.example"):
        await alice.refused("M_NOT_FOUND", "PUT", at(room, "redact", unknown, "1"), body={})
        await bob.refused("M_FORBIDDEN", "PUT", at(room, "redact", unknown, "1"), body={})
    await bob.refused("M_FORBIDDEN", "PUT", at(other, "redact", sent, "1"), body={})


async def test_what_holds_the_room_together_is_not_redacted(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(room_version="10")
    acl = await alice.put_state(room, "m.room.server_acl", {"allow": ["*"]})
    state = await alice.ok("GET", at(room, "state"))
    create = next(one["event_id"] for one in state if one["type"] == "m.room.create")
    for kept in (acl, create):
        await alice.refused("M_FORBIDDEN", "PUT", at(room, "redact", kept, "1"), body={})


async def test_redacted_state_is_not_told_by_its_successor(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    first = await alice.put_state(room, "m.room.topic", {"topic": "embarrassing"})
    second = await alice.put_state(room, "m.room.topic", {"topic": "fine"})
    shown = await event(alice, room, second)
    assert shown["unsigned"]["prev_content"] == {"topic": "embarrassing"}
    assert shown["unsigned"]["replaces_state"] == first
    await redact(alice, room, first, "1")
    for restarted in (False, True):
        if restarted:
            await server.restart()
        shown = await event(alice, room, second)
        assert shown["unsigned"]["prev_content"] == {}
        assert shown["unsigned"]["replaces_state"] == first
        assert "embarrassing" not in await everything(alice, room)


async def test_successor_and_predecessor_both_redacted(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    first = await alice.put_state(room, "m.room.topic", {"topic": "one"})
    second = await alice.put_state(room, "m.room.topic", {"topic": "two"})
    by = await redact(alice, room, second, "1")
    await redact(alice, room, first, "2")
    for restarted in (False, True):
        if restarted:
            await server.restart()
        shown = await event(alice, room, second)
        assert shown["unsigned"]["redacted_because"]["event_id"] == by
        assert "prev_content" not in shown["unsigned"]


async def test_a_redacted_redaction_keeps_its_effect_and_loses_its_reason(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    sent = await alice.say(room, "first offence")
    redaction = await redact(alice, room, sent, "1", reason="second offence")
    assert (await event(alice, room, sent))["unsigned"]["redacted_because"]["content"]["reason"]
    await redact(alice, room, redaction, "2")
    for restarted in (False, True):
        if restarted:
            await server.restart()
        shown = await event(alice, room, sent)
        assert shown["content"] == {}
        assert shown["unsigned"]["redacted_because"]["event_id"] == redaction
        text = await everything(alice, room)
        assert "first offence" not in text
        assert "second offence" not in text


async def test_of_two_redactions_the_first_is_the_reason(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    sent = await alice.say(room, "x")
    first = await redact(alice, room, sent, "1")
    await redact(alice, room, sent, "2")
    for restarted in (False, True):
        if restarted:
            await server.restart()
        shown = await event(alice, room, sent)
        assert shown["unsigned"]["redacted_because"]["event_id"] == first


async def test_a_redacted_name_is_no_name(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat", visibility="public")
    await bob.join(room)
    named = await alice.put_state(room, "m.room.name", {"name": "Oops"})
    await redact(alice, room, named, "1")
    assert await alice.ok("GET", at(room, "state", "m.room.name")) == {}
    listed = (await alice.ok("GET", "/publicRooms"))["chunk"]
    assert [(entry["room_id"], entry.get("name")) for entry in listed] == [(room, None)]
    summary = (await bob.sync())["rooms"]["join"][room]["summary"]
    assert summary["m.heroes"] == [alice.user_id]


async def test_redacted_levels_count_at_once(server: Running) -> None:
    """Up to version 10 `invite` falls back to 0, for who asks in the same moment too."""
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    room = await alice.create_room(room_version="10", preset="public_chat")
    await bob.join(room)
    levels = await alice.ok("GET", at(room, "state", "m.room.power_levels"))
    changed = await alice.put_state(room, "m.room.power_levels", {**levels, "invite": 50})
    invite = {"user_id": carol.user_id}
    await bob.refused("M_FORBIDDEN", "POST", at(room, "invite"), body=invite)
    await redact(alice, room, changed, "1")
    await bob.ok("POST", at(room, "invite"), body=invite)


async def test_a_redacted_member_stays_what_they_were(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    await bob.ok("PUT", f"/profile/{bob.user_id}/displayname", body={"displayname": "Rude"})
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    path = at(room, "state", "m.room.member", bob.user_id)
    joined = await alice.ok("GET", path, query={"format": "event"})
    await redact(alice, room, joined["event_id"], "1")
    assert await alice.ok("GET", path) == {"membership": "join"}
    await bob.say(room, "still here")
    assert (await alice.ok("GET", at(room, "joined_members")))["joined"][bob.user_id] == {}
