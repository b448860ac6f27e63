"""The first sync of a client: every room, its state at the start of the timeline, all that is kept.

spec: client-server-api#syncing
"""

from typing import Any
from urllib.parse import quote

from tests.serving import Running
from tests.streams.reading import (
    filtered,
    invite,
    joined,
    keep,
    left,
    messages,
    moved,
    read,
    said,
    state_of,
    told,
    typing,
)


async def test_a_new_account_gets_a_token_and_its_push_rules(server: Running) -> None:
    alice = await server.person("alice")
    answer = await alice.sync()
    assert told(answer) == {"account_data"}
    (rules,) = answer["account_data"]["events"]
    assert rules["type"] == "m.push_rules"
    assert rules["content"]["global"]["override"][0]["rule_id"] == ".m.rule.master"


async def test_each_room_stands_in_the_section_of_ones_membership(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    stays = await alice.create_room(preset="public_chat")
    invited = await alice.create_room(name="Come in", topic="Tea")
    knocked = await alice.create_room(
        initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
    )
    gone = await alice.create_room(preset="public_chat")
    await bob.join(stays)
    await invite(alice, invited, bob)
    await bob.ok("POST", f"/knock/{quote(knocked, safe='')}", body={})
    await bob.join(gone)
    before = await alice.say(gone, "you hear this")
    await moved(bob, gone, "leave")
    await alice.say(gone, "you don't")

    rooms = (await bob.sync())["rooms"]
    assert {name: set(rooms[name]) for name in rooms} == {
        "join": {stays},
        "invite": {invited},
        "knock": {knocked},
    }
    stripped = rooms["invite"][invited]["invite_state"]["events"]
    found = {(event["type"], event["state_key"]): event for event in stripped}
    assert all(set(event) == {"content", "sender", "state_key", "type"} for event in stripped)
    assert found["m.room.name", ""]["content"] == {"name": "Come in"}
    assert found["m.room.topic", ""]["content"]["topic"] == "Tea"
    assert found["m.room.member", bob.user_id]["content"]["membership"] == "invite"
    assert {("m.room.create", ""), ("m.room.member", alice.user_id)} <= set(found)
    stripped = rooms["knock"][knocked]["knock_state"]["events"]
    found = {(event["type"], event["state_key"]): event for event in stripped}
    assert found["m.room.member", bob.user_id]["content"]["membership"] == "knock"
    assert ("m.room.create", "") in found

    with_left = await bob.sync(since="", filter=filtered(include_leave=True))
    assert set(with_left["rooms"]["leave"]) == {gone}
    section = left(with_left, gone)
    assert said(section)[-2] == before
    assert section["timeline"]["events"][-1]["content"]["membership"] == "leave"
    assert "summary" not in section
    await bob.ok("POST", f"/rooms/{quote(gone, safe='')}/forget", body={})
    assert "leave" not in (await bob.sync(since="", filter=filtered(include_leave=True)))["rooms"]


async def test_state_is_that_at_the_start_of_the_timeline(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(preset="private_chat", name="first")
    old = (await alice.ok("GET", f"/rooms/{room}/state/m.room.name/?format=event"))["event_id"]
    one = await alice.say(room, "one")
    new = await alice.put_state(room, "m.room.name", {"name": "second"})
    last = await alice.say(room, "two")

    whole = joined(await alice.sync(since="", filter=filtered(limit=50)), room)
    assert whole["state"]["events"] == []
    assert whole["timeline"]["limited"] is False
    assert whole["timeline"]["events"][0]["type"] == "m.room.create"

    short = joined(await alice.sync(since="", filter=filtered(limit=3)), room)
    assert said(short) == [one, new, last]
    assert short["timeline"]["limited"] is True
    assert state_of(short)["m.room.name", ""]["event_id"] == old
    assert ("m.room.create", "") in state_of(short)
    assert ("m.room.member", alice.user_id) in state_of(short)

    for name in ("use_state_after", "org.matrix.msc4222.use_state_after"):
        query: dict[str, Any] = {name: "true"}
        answer = await alice.sync(since="", filter=filtered(limit=3), **query)
        after = joined(answer, room)
        assert "state" not in after
        key = name.replace("use_", "")
        assert state_of(after, key)["m.room.name", ""]["event_id"] == new


async def test_prev_batch_leads_on_without_gap_or_repeat(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(preset="private_chat")
    sent = [await alice.say(room, str(number)) for number in range(15)]
    for limit in (1, 4, 10):
        section = joined(await alice.sync(since="", filter=filtered(limit=limit)), room)
        assert said(section) == sent[-limit:]
        before = await messages(alice, room, section["timeline"]["prev_batch"])
        assert before[: 15 - limit] == sent[:-limit][::-1]
    # Nothing said: ten.
    assert said(joined(await alice.sync(since=""), room)) == sent[-10:]
    # Clients do send 0, for as little as possible.
    assert said(joined(await alice.sync(since="", filter=filtered(limit=0)), room)) == sent[-1:]


async def test_all_that_is_kept_comes_with_the_room(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    event_id = await alice.say(room, "read me")
    await read(bob, room, event_id)
    await read(alice, room, event_id, "m.read.private")
    await typing(bob, room)
    await keep(alice, "test.global", {"a": 1})
    await keep(alice, "test.room", {"b": 2}, room)
    user = f"/user/{quote(alice.user_id, safe='')}"
    await alice.ok("PUT", f"{user}/rooms/{room}/tags/m.favourite", body={"order": 0.5})

    answer = await alice.sync()
    contents = {event["type"]: event["content"] for event in answer["account_data"]["events"]}
    assert contents["test.global"] == {"a": 1}
    section = joined(answer, room)
    contents = {event["type"]: event["content"] for event in section["account_data"]["events"]}
    assert contents == {
        "test.room": {"b": 2},
        "m.tag": {"tags": {"m.favourite": {"order": 0.5}}},
    }
    shown = {event["type"]: event["content"] for event in section["ephemeral"]["events"]}
    assert shown["m.typing"] == {"user_ids": [bob.user_id]}
    receipts = shown["m.receipt"][event_id]
    assert set(receipts) == {"m.read", "m.read.private"}
    assert set(receipts["m.read"]) == {bob.user_id}
    assert set(receipts["m.read.private"]) == {alice.user_id}
    assert section["unread_notifications"] == {"highlight_count": 0, "notification_count": 0}


async def test_a_room_without_name_and_alias_has_heroes(server: Running) -> None:
    people = [await server.person(f"person{number}") for number in range(8)]
    first = people[0]
    room = await first.create_room(preset="public_chat")
    for person in people[1:7]:
        await person.join(room)
    await invite(first, room, people[7])
    summary = joined(await first.sync(), room)["summary"]
    assert summary == {
        "m.heroes": [person.user_id for person in people[1:6]],
        "m.joined_member_count": 7,
        "m.invited_member_count": 1,
    }
    # Somebody leaves: another takes the place.
    await moved(people[1], room, "leave")
    summary = joined(await first.sync(), room)["summary"]
    assert summary["m.heroes"] == [person.user_id for person in people[2:7]]
    assert summary["m.joined_member_count"] == 6
    # A name makes heroes needless, and its end needs them again.
    await first.put_state(room, "m.room.name", {"name": "Named"})
    assert "m.heroes" not in joined(await first.sync(), room)["summary"]
    await first.put_state(room, "m.room.name", {"name": ""})
    assert len(joined(await first.sync(), room)["summary"]["m.heroes"]) == 5
    # Alone: those who were there.
    alone = await first.create_room(preset="public_chat")
    await people[1].join(alone)
    await moved(people[1], alone, "leave")
    summary = joined(await first.sync(), alone)["summary"]
    assert summary["m.heroes"] == [people[1].user_id]


async def test_full_state_tells_all_state_and_only_new_events(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat", name="Name")
    quiet = await alice.create_room(preset="public_chat", name="Quiet")
    await bob.join(room)
    await alice.sync()
    event_id = await bob.say(room, "new")
    answer = await alice.sync(full_state="true", timeout=30_000)
    assert said(joined(answer, room)) == [event_id]
    assert said(joined(answer, quiet)) == []
    for here in (room, quiet):
        real = await alice.ok("GET", f"/rooms/{quote(here, safe='')}/state")
        assert {event["event_id"] for event in real} == {
            event["event_id"] for event in joined(answer, here)["state"]["events"]
        }
    assert "summary" in joined(answer, quiet)
    # Nothing new: answered at once all the same.
    again = await alice.sync(full_state="true", timeout=30_000)
    assert set(again["rooms"]["join"]) == {room, quiet}
    # Lazily loaded: oneself, senders and heroes, and who changed.
    carol = await server.person("carol")
    await carol.join(room)
    await alice.say(room, "mine")
    lazy = filtered(state={"lazy_load_members": True}, limit=1)
    section = joined(await alice.sync(full_state="true", filter=lazy), room)
    shown = {key for type_, key in state_of(section) if type_ == "m.room.member"}
    assert shown == {alice.user_id, carol.user_id}
