"""How many messages one has not read.

spec: client-server-api#receiving-notifications
"""

from typing import Any

import pytest

from homeserver.push import unread as module
from tests.serving import Person, Running
from tests.streams.reading import (
    filtered,
    invite,
    joined,
    moved,
    read,
    redact,
    typing,
    unread,
)


async def pair(server: Running, **options: Any) -> tuple[Person, Person, str]:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat", **options)
    await bob.join(room)
    await bob.say(room, "before alice looks")
    assert unread(joined(await alice.sync(), room)) == 1
    return alice, bob, room


async def count(server: Running, person: Person, room: str) -> int:
    """What the next answer says, a first sync says, and the tables say after a restart."""
    live = unread(joined(await person.sync(), room))
    assert unread(joined(await person.sync(since="", remember=False), room)) == live
    await server.restart()
    assert unread(joined(await person.sync(since="", remember=False), room)) == live
    return live


async def test_others_messages_count_and_some_dont(server: Running) -> None:
    alice, bob, room = await pair(server)
    await bob.say(room, "counts")
    assert await count(server, alice, room) == 2
    await bob.send(room, "m.room.encrypted", {"algorithm": "m.megolm.v1.aes-sha2"})
    assert await count(server, alice, room) == 3
    await bob.send(room, "m.room.message", {"msgtype": "m.notice", "body": "I'm a bot"})
    await bob.send(room, "m.reaction", {"m.relates_to": {"rel_type": "m.annotation"}})
    edit = {
        "msgtype": "m.text",
        "body": "* edited",
        "m.relates_to": {"rel_type": "m.replace", "event_id": "$x"},
    }
    await bob.send(room, "m.room.message", edit)
    assert await count(server, alice, room) == 3
    removed = await bob.say(room, "taken back")
    assert await count(server, alice, room) == 4
    await redact(bob, room, removed)
    assert await count(server, alice, room) == 3


async def test_reading_and_speaking_make_it_none(server: Running) -> None:
    alice, bob, room = await pair(server)
    for kind in ("m.read", "m.read.private", "m.read"):
        first = await bob.say(room, "1")
        second = await bob.say(room, "2")
        await read(alice, room, first, kind)
        assert await count(server, alice, room) == 1
        # One's client may say that it has read the main timeline, too.
        await read(alice, room, second, kind, thread_id="main")
        assert await count(server, alice, room) == 0
    await bob.say(room, "3")
    await alice.say(room, "I'm here")
    assert await count(server, alice, room) == 0
    # Somebody else's reading is nothing to one's own.
    await bob.say(room, "4")
    carol = await server.person("carol")
    await carol.join(room)
    await read(carol, room, first)
    assert await count(server, alice, room) == 1
    await typing(bob, room)
    assert await count(server, alice, room) == 1


async def test_what_one_sets_is_not_what_one_reads(server: Running) -> None:
    alice, bob, room = await pair(server)
    content = {"membership": "join", "displayname": "Alice in all rooms"}
    await alice.put_state(room, "m.room.member", content, alice.user_id)
    await alice.put_state(room, "m.room.topic", {"topic": "x"})
    assert await count(server, alice, room) == 1
    await bob.say(room, "x")
    assert await count(server, alice, room) == 2


async def test_what_came_before_ones_join_was_never_unread(server: Running) -> None:
    alice, bob, room = await pair(server)
    await moved(bob, room, "leave")
    await alice.say(room, "while away")
    await invite(alice, room, bob)
    await bob.join(room)
    assert await count(server, bob, room) == 0
    await alice.say(room, "x")
    assert await count(server, bob, room) == 1


async def test_it_is_counted_up_to_a_limit(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CAP", 5)
    alice, bob, room = await pair(server)
    for _ in range(5):
        await bob.say(room, "x")
        live = joined(await alice.sync(filter=filtered(limit=1)), room)
    assert unread(live) == 5
    assert await count(server, alice, await _touched(bob, room)) == 5


async def _touched(person: Person, room: str) -> str:
    await person.say(room, "x")
    return room
