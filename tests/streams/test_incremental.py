"""Later syncs: what has changed and nothing else, whole also where the timeline is not.

spec: client-server-api#syncing
"""

from tests.serving import Running
from tests.streams.reading import filtered, joined, messages, read, said, state_of, told, typing


async def test_only_what_changed_is_told(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await alice.create_room(preset="public_chat", name="Quiet")
    await bob.join(room)
    await alice.sync()
    assert told(await alice.sync()) == set()
    event_id = await bob.say(room, "hello")
    answer = await alice.sync()
    assert told(answer) == {"rooms"}
    assert set(answer["rooms"]) == {"join"}
    section = joined(answer, room)
    assert set(answer["rooms"]["join"]) == {room}
    assert set(section) == {"timeline", "state", "unread_notifications"}
    assert said(section) == [event_id]
    assert section["state"]["events"] == []
    assert section["timeline"]["limited"] is False
    assert told(await alice.sync()) == set()


async def test_a_state_event_in_the_timeline_is_not_told_twice(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(name="one")
    await alice.sync()
    since = alice.since
    new = await alice.put_state(room, "m.room.name", {"name": "two"})
    section = joined(await alice.sync(since=since), room)
    assert said(section) == [new]
    assert section["state"]["events"] == []
    # Who wants the state after the timeline gets it there.
    section = joined(await alice.sync(since=since, use_state_after="true"), room)
    assert said(section) == [new]
    assert state_of(section, "state_after")["m.room.name", ""]["event_id"] == new


async def test_a_gap_is_limited_and_can_be_filled(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    await alice.sync()
    since = alice.since
    sent = [await bob.say(room, str(number)) for number in range(13)]
    section = joined(await alice.sync(), room)
    assert section["timeline"]["limited"] is True
    assert said(section) == sent[-10:]
    prev_batch = section["timeline"]["prev_batch"]
    assert await messages(alice, room, prev_batch, to=since) == sent[2::-1]
    assert (await messages(alice, room, prev_batch, dir="f"))[:10] == sent[3:]
    # Exactly as many as the limit: no gap.
    sent = [await bob.say(room, str(number)) for number in range(10)]
    section = joined(await alice.sync(), room)
    assert section["timeline"]["limited"] is False
    assert said(section) == sent


async def test_the_state_changed_in_a_gap_is_told(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(name="a")
    await alice.put_state(room, "test.once", {"v": 0})
    await alice.put_state(room, "test.back", {"v": 0})
    await alice.put_state(room, "test.shown", {"v": 0})
    await alice.sync()
    since = alice.since
    once = await alice.put_state(room, "test.once", {"v": 1})
    await alice.put_state(room, "test.back", {"v": 1})
    back = await alice.put_state(room, "test.back", {"v": 0})
    hidden = await alice.put_state(room, "test.shown", {"v": 1})
    new = await alice.put_state(room, "test.new", {"v": 1})
    shown = await alice.put_state(room, "test.shown", {"v": 2})
    last = await alice.say(room, "end")

    limited = filtered(limit=2)
    section = joined(await alice.sync(since=since, filter=limited), room)
    assert said(section) == [shown, last]
    assert {key[0]: event["event_id"] for key, event in state_of(section).items()} == {
        "test.once": once,
        "test.back": back,
        "test.shown": hidden,
        "test.new": new,
    }
    section = joined(await alice.sync(since=since, filter=limited, use_state_after="1"), room)
    after = state_of(section, "state_after")
    assert {key[0]: event["event_id"] for key, event in after.items()} == {
        "test.once": once,
        "test.back": back,
        "test.shown": shown,
        "test.new": new,
    }


async def test_state_that_the_timeline_filter_hides_stands_in_state(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(name="a")
    await alice.sync()
    new = await alice.put_state(room, "m.room.name", {"name": "b"})
    only_messages = filtered(timeline={"types": ["m.room.message"]})
    section = joined(await alice.sync(filter=only_messages), room)
    assert said(section) == []
    assert state_of(section)["m.room.name", ""]["event_id"] == new


async def test_several_devices_each_get_everything_once(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    first = (await alice.sync())["next_batch"]
    one = await bob.say(room, "one")
    second = (await alice.sync(since=first))["next_batch"]
    two = await bob.say(room, "two")
    assert said(joined(await alice.sync(since=first), room)) == [one, two]
    assert said(joined(await alice.sync(since=second), room)) == [two]
    # Asking again with an old token gives it again.
    assert said(joined(await alice.sync(since=second), room)) == [two]


async def test_what_is_filtered_out_makes_no_answer(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    event_id = await alice.say(room, "mine")
    await alice.sync()
    since = alice.since
    await typing(bob, room)
    await read(bob, room, event_id)
    nothing = filtered(ephemeral={"types": []}, timeline={"types": []}, state={"types": []})
    assert told(await alice.sync(since=since, filter=nothing)) == set()
    assert told(await alice.sync(since=since)) == {"rooms"}
    # The number of unread messages changes although no event is wanted, and when they are read.
    heard = await bob.say(room, "count me")
    answer = await alice.sync(filter=nothing)
    assert joined(answer, room)["unread_notifications"]["notification_count"] == 1
    await read(alice, room, heard, "m.read.private")
    answer = await alice.sync(filter=nothing)
    assert joined(answer, room)["unread_notifications"]["notification_count"] == 0
    assert told(await alice.sync(filter=nothing)) == set()
