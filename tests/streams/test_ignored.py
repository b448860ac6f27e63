"""Ignored users: their messages and invites don't arrive, the state of rooms does.

spec: client-server-api#ignoring-users
"""

import json

from tests.serving import Running
from tests.streams.reading import (
    ephemeral,
    ignore,
    invite,
    joined,
    read,
    said,
    told,
    typing,
    unread,
)


async def test_messages_of_ignored_users_are_absent_and_state_is_there(server: Running) -> None:
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    room = await alice.create_room(
        preset="public_chat", power_level_content_override={"events": {"m.room.name": 0}}
    )
    for person in (bob, carol):
        await person.join(room)
    await alice.sync()
    since = alice.since
    await ignore(alice, bob)
    assert "m.ignored_user_list" in json.dumps(await alice.sync())
    await bob.say(room, "unheard")
    assert told(await alice.sync()) == set()
    named = await bob.put_state(room, "m.room.name", {"name": "Bob's"})
    heard = await carol.say(room, "heard")
    section = joined(await alice.sync(), room)
    assert said(section) == [named, heard]
    assert unread(section) == 1
    await server.restart()
    section = joined(await alice.sync(since=since), room)
    assert said(section) == [named, heard]
    assert "unheard" not in json.dumps(await alice.sync(since=""))
    # Others hear.
    assert "unheard" in json.dumps(await carol.sync())

    await ignore(alice)
    later = await bob.say(room, "heard again")
    section = joined(await alice.sync(), room)
    assert said(section) == [later]
    assert unread(section) == 3


async def test_invites_of_ignored_users_are_absent(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await bob.create_room(name="Come")
    await alice.sync()
    since = alice.since
    await ignore(alice, bob)
    await invite(bob, room, alice)
    for start in (since, ""):
        assert "rooms" not in await alice.sync(since=start)


async def test_neither_their_typing_nor_their_receipts(server: Running) -> None:
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    room = await alice.create_room(preset="public_chat")
    for person in (bob, carol):
        await person.join(room)
    event_id = await alice.say(room, "x")
    await ignore(alice, bob)
    await alice.sync()
    for person in (bob, carol):
        await typing(person, room)
        await read(person, room, event_id)
    section = joined(await alice.sync(), room)
    assert ephemeral(section, "m.typing") == [{"user_ids": [carol.user_id]}]
    assert set(ephemeral(section, "m.receipt")[0][event_id]["m.read"]) == {carol.user_id}


async def test_nobody_ignores_themselves(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    await ignore(alice, alice)
    await alice.sync()
    event_id = await alice.say(room, "me")
    assert said(joined(await alice.sync(), room)) == [event_id]
