"""Messages and state get in once, or not at all.

spec: client-server-api#sending-events-to-a-room, client-server-api#transaction-identifiers
"""

import asyncio
from typing import Any

import pytest

from storage.events import txns_before
from tests.rooms.paths import at
from tests.serving import PASSWORD, Person, Running

TEXT = {"msgtype": "m.text", "body": "hello"}


async def count(person: Person, room_id: str) -> int:
    page = await person.ok("GET", at(room_id, "messages"), query={"dir": "b", "limit": 500})
    return len(page["chunk"])


async def send(person: Person, room_id: str, txn_id: str, **content: Any) -> str:
    return await person.send(room_id, "m.room.message", {**TEXT, **content}, txn_id)


async def test_a_transaction_is_carried_out_once(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    before = await count(alice, room)
    first = await send(alice, room, "1")
    assert await send(alice, room, "1", body="the content doesn't matter") == first
    assert await send(alice, room, "2") != first
    await server.restart()
    assert await send(alice, room, "1") == first
    assert await count(alice, room) == before + 2


async def test_who_may_not_send_any_more_can_still_ask_for_the_answer(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    first = await send(bob, room, "1")
    reaction = {"m.relates_to": {"rel_type": "m.annotation", "event_id": first, "key": "+"}}
    second = await bob.send(room, "m.reaction", reaction, "2")
    await bob.ok("POST", at(room, "leave"), body={})
    for _ in range(2):
        assert await send(bob, room, "1") == first
        assert await bob.send(room, "m.reaction", reaction, "2") == second
        await bob.refused("M_FORBIDDEN", "PUT", at(room, "send", "m.custom", "3"), body=TEXT)
        await server.restart()


async def test_a_transaction_is_a_new_one_a_day_later(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    first = await send(alice, room, "1")
    await server.clock.advance(24 * 3_600 + 1_200)
    database = server.app._database  # noqa: SLF001 (what is forgotten shows in no answer)
    assert database is not None
    for _ in range(6_000):
        if not await txns_before(database, server.clock.now_ms(), 1):
            break
        # What forgets may have begun to wait only now.
        await server.clock.advance(1_200)
        await asyncio.sleep(0.01)
    second = await send(alice, room, "1")
    assert second != first
    assert await send(alice, room, "1") == second


async def test_equal_requests_at_one_moment_are_one(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    before = await count(alice, room)
    sent = await asyncio.gather(*(send(alice, room, "1") for _ in range(8)))
    assert len(set(sent)) == 1
    assert await count(alice, room) == before + 1


async def test_an_answer_that_was_lost_can_be_asked_for_again(server: Running) -> None:
    """Also when the client gives up at any moment while its message is on the way."""
    alice = await server.person("alice")
    room = await alice.create_room()
    before = await count(alice, room)
    for turns in range(0, 60, 3):
        given_up = asyncio.create_task(send(alice, room, f"t{turns}"))
        for _ in range(turns):
            await asyncio.sleep(0)
        given_up.cancel()
        answers = await asyncio.gather(*(send(alice, room, f"t{turns}") for _ in range(2)))
        assert len(set(answers)) == 1
    assert await count(alice, room) == before + 20


async def test_transactions_belong_to_a_device_and_a_path(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    other_room = await alice.create_room()
    await bob.join(room)
    login = await alice.ok(
        "POST",
        "/login",
        body={
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "alice"},
            "password": PASSWORD,
        },
    )
    phone = Person(server, alice.user_id, login["access_token"], login["device_id"])
    first = await send(alice, room, "1")
    others = [
        await send(phone, room, "1"),
        await send(bob, room, "1"),
        await send(alice, other_room, "1"),
        await alice.send(room, "m.other", {}, "1"),
        (await alice.ok("PUT", at(room, "redact", first, "1"), body={}))["event_id"],
    ]
    assert len({first, *others}) == 6
    shown = await alice.ok("GET", at(room, "event", others[3]))
    assert shown["unsigned"]["transaction_id"] == "1"
    for person in (phone, bob):
        shown = await person.ok("GET", at(room, "event", others[3]))
        assert "transaction_id" not in shown["unsigned"]


async def test_a_transaction_that_was_refused_may_be_tried_again(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    path = at(room, "send", "m.room.message", "1")
    await bob.refused("M_FORBIDDEN", "PUT", path, body=TEXT)
    await bob.join(room)
    await bob.ok("PUT", path, body=TEXT)


async def test_state_that_changes_nothing_is_no_event(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(
        room_version="11", power_level_content_override={"state_default": 0}, invite=[bob.user_id]
    )
    await bob.join(room)
    first = await alice.put_state(room, "m.custom", {"a": 1})
    before = await count(alice, room)
    assert await alice.put_state(room, "m.custom", {"a": 1}) == first
    assert await count(alice, room) == before
    by_bob = await bob.put_state(room, "m.custom", {"a": 1})
    assert by_bob != first
    assert await alice.put_state(room, "m.custom", {"a": 2}) != first
    await bob.put_state(room, "m.mine", {"a": 1})
    await bob.ok("POST", at(room, "leave"), body={})
    await bob.refused("M_FORBIDDEN", "PUT", at(room, "state", "m.mine"), body={"a": 1})


async def test_an_empty_state_key_needs_no_slash(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    plain = at(room, "state", "m.custom")
    first = await alice.ok("PUT", plain, body={"a": 1})
    assert await alice.ok("PUT", plain + "/", body={"a": 1}) == first
    assert await alice.ok("GET", plain) == await alice.ok("GET", plain + "/") == {"a": 1}
    await alice.ok("PUT", at(room, "state", "m.custom", "a/b c+é"), body={"a": 2})
    event = await alice.ok(
        "GET", at(room, "state", "m.custom", "a/b c+é"), query={"format": "event"}
    )
    assert (event["state_key"], event["content"]) == ("a/b c+é", {"a": 2})
    assert (event["room_id"], event["sender"]) == (room, alice.user_id)


async def test_state_under_a_users_name_is_that_users(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(
        preset="public_chat", power_level_content_override={"state_default": 0}
    )
    await bob.join(room)
    await bob.put_state(room, "m.custom", {"a": 1}, bob.user_id)
    for person, key in ((alice, bob.user_id), (bob, alice.user_id), (bob, "@nobody")):
        await person.refused("M_FORBIDDEN", "PUT", at(room, "state", "m.custom", key), body={})


async def test_what_the_levels_forbid_changes_nothing(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(
        room_version="10",
        preset="public_chat",
        power_level_content_override={"events": {"m.loud": 10, "m.room.name": 50}},
    )
    await bob.join(room)
    levels = await alice.ok("GET", at(room, "state", "m.room.power_levels"))
    before = await count(alice, room)
    refused: list[tuple[Person, tuple[str, ...], dict[str, Any]]] = [
        (bob, ("send", "m.loud", "1"), {}),
        (bob, ("state", "m.room.name"), {"name": "Bob's"}),
        (bob, ("state", "m.room.power_levels"), {**levels, "users": {bob.user_id: 100}}),
        (alice, ("state", "m.room.power_levels"), {**levels, "kick": 101}),
        (alice, ("state", "m.room.power_levels"), {**levels, "kick": "50"}),
        (alice, ("state", "m.room.power_levels"), {**levels, "users": {"nobody": 0}}),
        (alice, ("state", "m.room.create"), {"creator": alice.user_id}),
        (alice, ("send", "m.room.create", "1"), {"creator": alice.user_id}),
        (alice, ("send", "m.room.member", "1"), {"membership": "join"}),
    ]
    for person, parts, body in refused:
        await person.refused("M_FORBIDDEN", "PUT", at(room, *parts), body=body)
    assert await count(alice, room) == before
    assert await alice.ok("GET", at(room, "state", "m.room.power_levels")) == levels


LIMITS: list[tuple[str, dict[str, Any]]] = [
    ("M_TOO_LARGE", {"body": "x" * 65_536}),
    ("M_BAD_JSON", {"n": 1.5}),
    ("M_BAD_JSON", {"n": 2**53}),
    ("M_BAD_JSON", {"n": [{"m": -(2**53)}]}),
]


@pytest.mark.parametrize("version", ["6", "12"])
async def test_contents_have_limits(server: Running, version: str) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(room_version=version)
    before = await count(alice, room)
    for errcode, body in LIMITS:
        for parts in (("send", "m.room.message", "1"), ("state", "m.custom")):
            reply = await alice.refused(errcode, "PUT", at(room, *parts), body=body)
            assert reply.status == (413 if errcode == "M_TOO_LARGE" else 400)
    deep = b'{"a":' * 300 + b"1" + b"}" * 300
    await alice.refused("M_BAD_JSON", "PUT", at(room, "send", "m.x", "1"), data=deep)
    assert await count(alice, room) == before
    await alice.send(room, "m.custom", {"n": 2**53 - 1, "m": -(2**53) + 1})


async def test_old_rooms_take_the_numbers_that_they_always_took(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(room_version="5")
    event_id = await alice.send(room, "m.custom", {"n": 1.5, "m": 2**60})
    await server.restart()
    event = await alice.ok("GET", at(room, "event", event_id))
    assert event["content"] == {"n": 1.5, "m": 2**60}


async def test_fields_have_at_most_255_bytes(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    before = await count(alice, room)
    for name in ("x" * 256, "é" * 128, "x" * 5_000):
        for parts in (("state", name), ("state", "m.x", name), ("send", name, "1")):
            await alice.refused("M_TOO_LARGE", "PUT", at(room, *parts), body={})
        await alice.refused("M_NOT_FOUND", "GET", at(room, "state", name))
        await alice.refused("M_INVALID_PARAM", "PUT", at(room, "send", "m.x", name), body={})
    await alice.put_state(room, "x" * 255, {"a": 1}, "é" * 127)
    assert await count(alice, room) == before + 1


async def test_no_field_holds_a_nul(server: Running) -> None:
    """PostgreSQL could not keep it: both databases refuse it alike."""
    alice = await server.person("alice")
    room = await alice.create_room()
    before = await count(alice, room)
    nul = "a\0b"
    for parts in (("state", nul), ("state", "m.x", nul), ("send", nul, "1"), ("send", "m.x", nul)):
        await alice.refused("M_INVALID_PARAM", "PUT", at(room, *parts), body={})
        await alice.refused("M_INVALID_PARAM", "GET", at(room, "state", nul))
    texts = [
        ("m.room.name", {"name": nul}),
        ("m.room.topic", {"topic": nul}),
        ("m.room.avatar", {"url": nul}),
        ("m.room.join_rules", {"join_rule": nul}),
        ("m.room.encryption", {"algorithm": nul}),
        ("m.room.guest_access", {"guest_access": nul}),
        ("m.room.history_visibility", {"history_visibility": nul}),
        ("m.room.canonical_alias", {"alias": "#a\0:test.example"}),
    ]
    for event_type, body in texts:
        reply = await alice.raw("PUT", at(room, "state", event_type), body=body)
        assert (reply.status, reply.errcode in ("M_BAD_JSON", "M_INVALID_PARAM")) == (400, True)
    member = at(room, "state", "m.room.member", alice.user_id)
    invite = {"membership": "invite", "third_party_invite": {"signed": {"token": nul}}}
    await alice.refused("M_BAD_JSON", "PUT", member, body=invite)
    assert await count(alice, room) == before
    await alice.say(room, nul)


async def test_the_canonical_alias_leads_to_the_room(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(room_alias_name="here")
    await alice.create_room(room_alias_name="there")
    path = at(room, "state", "m.room.canonical_alias")
    for alias in ("#there:test.example", "#nowhere:test.example"):
        await alice.refused("M_BAD_ALIAS", "PUT", path, body={"alt_aliases": [alias]})
    await alice.refused("M_INVALID_PARAM", "PUT", path, body={"alt_aliases": ["here"]})
    await alice.ok("PUT", path, body={"alt_aliases": ["#here:test.example"]})
    await alice.ok("DELETE", "/directory/room/%23here%3Atest.example")
    await alice.ok("PUT", path, body={})
