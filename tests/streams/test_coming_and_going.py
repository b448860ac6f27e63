"""One's own comings and goings: which section a room stands in, and what of it may be seen.

spec: client-server-api#get_matrixclientv3sync
"""

from typing import Any
from urllib.parse import quote

from tests.serving import Person, Running
from tests.streams.reading import (
    filtered,
    invite,
    joined,
    keep,
    left,
    messages,
    moved,
    said,
    state_of,
)


def last_membership(section: Any) -> str:
    return str(section["timeline"]["events"][-1]["content"]["membership"])


async def pair(server: Running, **options: object) -> tuple[Person, Person, str]:
    """Two people, the first in a public room; both have synced."""
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat", **options)
    await alice.sync()
    await bob.sync()
    return alice, bob, room


async def test_a_room_newly_joined_comes_whole(server: Running) -> None:
    alice, bob, room = await pair(server, name="Name")
    said_before = [await alice.say(room, str(number)) for number in range(3)]
    await bob.join(room)
    last = await alice.say(room, "welcome")
    section = joined(await bob.sync(filter=filtered(limit=5)), room)
    assert said(section)[:3] == said_before
    assert said(section)[-1] == last
    state = state_of(section)
    assert {("m.room.create", ""), ("m.room.name", ""), ("m.room.power_levels", "")} <= set(state)
    assert ("m.room.member", bob.user_id) not in state
    assert section["summary"]["m.joined_member_count"] == 2
    assert "rooms" not in await bob.sync()


async def test_leaving_ends_with_the_leave(server: Running) -> None:
    alice, bob, room = await pair(server)
    for verb in ("leave", "kick", "ban"):
        await bob.join(room)
        await bob.sync()
        heard = await alice.say(room, "still here")
        who = (bob, None) if verb == "leave" else (alice, bob)
        await moved(who[0], room, verb, who[1])
        await alice.say(room, "gone?")
        await alice.put_state(room, "m.room.topic", {"topic": verb})
        answer = await bob.sync()
        assert set(answer["rooms"]) == {"leave"}
        section = left(answer, room)
        assert said(section)[0] == heard
        assert len(said(section)) == 2
        assert last_membership(section) == ("ban" if verb == "ban" else "leave")
        assert section["state"]["events"] == []
        assert "summary" not in section
        await alice.say(room, "nobody hears")
        assert "rooms" not in await bob.sync()


async def test_a_gap_before_leaving_shows_the_state_up_to_then(server: Running) -> None:
    alice, bob, room = await pair(server)
    await bob.join(room)
    await bob.sync()
    seen = await alice.put_state(room, "m.room.name", {"name": "seen"})
    for number in range(12):
        await alice.say(room, str(number))
    await moved(alice, room, "kick", bob)
    await alice.put_state(room, "m.room.name", {"name": "secret"})
    # A ban after the kick is the user's business; what was said in between is not.
    await alice.say(room, "he's gone")
    await moved(alice, room, "ban", bob)
    await alice.put_state(room, "m.room.topic", {"topic": "secret"})
    since = bob.since
    for name in ("state", "state_after"):
        wanted = "true" if name == "state_after" else None
        section = left(await bob.sync(since=since, use_state_after=wanted), room)
        memberships = [
            event["content"].get("membership") for event in section["timeline"]["events"]
        ]
        assert memberships[-2:] == ["leave", "ban"]
        assert set(memberships[:-2]) == {None}
        assert section["timeline"]["limited"] is True
        state = state_of(section, name)
        assert state["m.room.name", ""]["event_id"] == seen
        assert ("m.room.topic", "") not in state
        if name == "state_after":
            member = state["m.room.member", bob.user_id]
            assert member["content"]["membership"] == "ban"


async def test_a_declined_invite_ends_without_a_word_about_the_room(server: Running) -> None:
    alice, bob, _ = await pair(server)
    for who in (bob, alice):
        room = await alice.create_room(name="Secret")
        await invite(alice, room, bob)
        assert set((await bob.sync())["rooms"]["invite"]) == {room}
        await alice.say(room, "secret")
        if who is bob:
            await moved(bob, room, "leave")
        else:
            await moved(alice, room, "kick", bob)
        section = left(await bob.sync(), room)
        assert len(said(section)) == 1
        assert last_membership(section) == "leave"
        assert section["state"]["events"] == []
        assert section["timeline"]["limited"] is False
        assert "summary" not in section
        everything = await bob.sync(since="", filter=filtered(include_leave=True))
        section = left(everything, room)
        assert (len(said(section)), section["state"]["events"]) == (1, [])


async def test_invited_then_joined(server: Running) -> None:
    alice, bob, _ = await pair(server)
    room = await alice.create_room(name="Private")
    await invite(alice, room, bob)
    assert "invite" in (await bob.sync())["rooms"]
    await bob.join(room)
    answer = await bob.sync()
    assert set(answer["rooms"]) == {"join"}
    assert last_membership(joined(answer, room)) == "join"
    # Within one gap only the end of it shows.
    other = await alice.create_room(name="Other")
    await invite(alice, other, bob)
    await bob.join(other)
    assert set((await bob.sync())["rooms"]) == {"join"}


async def test_a_refused_knock(server: Running) -> None:
    alice, bob, _ = await pair(server)
    room = await alice.create_room(
        initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
    )
    await bob.ok("POST", f"/knock/{quote(room, safe='')}", body={})
    assert set((await bob.sync())["rooms"]["knock"]) == {room}
    assert "rooms" not in await bob.sync()
    await moved(alice, room, "kick", bob)
    section = left(await bob.sync(), room)
    assert (len(said(section)), last_membership(section)) == (1, "leave")
    assert section["state"]["events"] == []


async def test_left_and_back_within_one_gap(server: Running) -> None:
    alice, bob, room = await pair(server)
    await alice.put_state(room, "m.room.history_visibility", {"history_visibility": "joined"})
    await bob.join(room)
    await bob.sync()
    since = bob.since
    heard = await alice.say(room, "before")
    await moved(bob, room, "leave")
    hidden = await alice.say(room, "while away")
    name = await alice.put_state(room, "m.room.name", {"name": "while away"})
    await bob.join(room)
    last = await alice.say(room, "after")
    section = joined(await bob.sync(), room)
    assert section["timeline"]["limited"] is True
    assert said(section)[-1] == last
    assert hidden not in said(section)
    # What it has is not repeated; the state comes whole.
    assert said(section)[0] == heard
    assert ("m.room.create", "") in state_of(section)
    told = {event["event_id"] for event in section["state"]["events"]} | set(said(section))
    real = await bob.ok("GET", f"/rooms/{quote(room, safe='')}/state")
    assert {event["event_id"] for event in real} <= told
    assert name in told
    short = joined(await bob.sync(since=since, filter=filtered(limit=1)), room)
    gap = await messages(bob, room, short["timeline"]["prev_batch"], to=since)
    assert heard in gap
    assert hidden not in gap


async def test_back_after_the_leave_was_told(server: Running) -> None:
    alice, bob, room = await pair(server)
    await bob.join(room)
    await keep(bob, "test.room", {"kept": True}, room)
    await bob.sync()
    await moved(bob, room, "leave")
    await bob.sync()
    await alice.say(room, "shared history")
    await bob.join(room)
    section = joined(await bob.sync(), room)
    # The client may still show the earlier stay: this doesn't follow on it.
    assert section["timeline"]["limited"] is True
    assert ("test.room", {"kept": True}) in [
        (event["type"], event["content"]) for event in section["account_data"]["events"]
    ]


async def test_came_and_went_within_one_gap(server: Running) -> None:
    alice, bob, room = await pair(server)
    await bob.join(room)
    heard = await alice.say(room, "hello")
    await moved(bob, room, "leave")
    await alice.put_state(room, "m.room.name", {"name": "later"})
    section = left(await bob.sync(), room)
    assert heard in said(section)
    assert last_membership(section) == "leave"
    assert ("m.room.name", "") not in state_of(section)


async def test_a_new_display_name_is_no_new_join(server: Running) -> None:
    alice, bob, room = await pair(server)
    await bob.join(room)
    await bob.sync()
    content = {"membership": "join", "displayname": "Bobby"}
    event_id = await bob.put_state(room, "m.room.member", content, bob.user_id)
    section = joined(await bob.sync(), room)
    assert said(section) == [event_id]
    assert section["state"]["events"] == []
    assert section["timeline"]["limited"] is False
    assert said(joined(await alice.sync(), room))[-1] == event_id


async def test_history_from_before_the_join_as_far_as_it_may_be_read(server: Running) -> None:
    for visibility, seen in (("shared", 2), ("invited", 1), ("joined", 0), ("world_readable", 2)):
        alice, bob = await server.person(f"a-{visibility}"), await server.person(f"b-{visibility}")
        content = {"history_visibility": visibility}
        initial = [{"type": "m.room.history_visibility", "content": content}]
        room = await alice.create_room(initial_state=initial)
        await bob.sync()
        before = [await alice.say(room, "before the invite")]
        await invite(alice, room, bob)
        before.append(await alice.say(room, "before the join"))
        await bob.join(room)
        shown = said(joined(await bob.sync(filter=filtered(limit=50)), room))
        assert [event_id for event_id in before if event_id in shown] == before[2 - seen :]
