"""How many messages one has not read.

spec: client-server-api#receiving-notifications
"""

from typing import Any
from urllib.parse import quote

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


def _counts(section: Any) -> tuple[int, int]:
    told = section["unread_notifications"]
    return told["notification_count"], told["highlight_count"]


async def both(server: Running, person: Person, room: str) -> tuple[int, int]:
    """Notifications and highlights, live and from the tables."""
    live = _counts(joined(await person.sync(), room))
    await server.restart()
    assert _counts(joined(await person.sync(since="", remember=False), room)) == live
    return live


def _text(**more: Any) -> dict[str, Any]:
    return {"msgtype": "m.text", "body": "cake", **more}


async def rule(person: Person, kind: str, rule_id: str, **body: Any) -> None:
    path = f"/pushrules/global/{kind}/{quote(rule_id, safe='')}"
    await person.ok("PUT", path, body=body)


async def test_those_who_are_mentioned_are_told_apart(server: Running) -> None:
    alice, bob, room = await pair(server)
    carol = await server.person("carol")
    listed = [alice.user_id, carol.user_id, "@nobody:elsewhere", "@nobody:test.example", 7]
    await bob.send(room, "m.room.message", _text(**{"m.mentions": {"user_ids": listed}}))
    assert await both(server, alice, room) == (2, 1)
    # An edit is only told of when it mentions somebody.
    edit = {"rel_type": "m.replace", "event_id": "$x"}
    await bob.send(room, "m.room.message", _text(**{"m.relates_to": edit}))
    mention = {"m.mentions": {"user_ids": [alice.user_id]}, "m.relates_to": edit}
    last = await bob.send(room, "m.room.message", _text(**mention))
    assert await both(server, alice, room) == (3, 2)
    await redact(bob, room, last)
    assert await both(server, alice, room) == (2, 1)
    # Bob may not ping the room, alice may.
    await bob.send(room, "m.room.message", _text(**{"m.mentions": {"room": True}}))
    assert await both(server, alice, room) == (3, 1)
    await alice.send(room, "m.room.message", _text(**{"m.mentions": {"room": True}}))
    assert await both(server, bob, room) == (1, 1)
    # Carol wasn't there.
    await carol.join(room)
    assert await both(server, carol, room) == (0, 0)


async def test_own_rules_hold_at_once(server: Running) -> None:
    alice, bob, room = await pair(server)
    await rule(alice, "room", room, actions=[])
    await bob.say(room, "muted")
    assert await both(server, alice, room) == (0, 0)
    await bob.send(room, "m.room.message", _text(**{"m.mentions": {"user_ids": [alice.user_id]}}))
    assert await both(server, alice, room) == (1, 1)
    actions = ["notify", {"set_tweak": "highlight"}]
    await rule(alice, "content", "sweet", pattern="cake", actions=actions)
    await bob.send(room, "m.room.message", _text())
    # Rules of now are those that count.
    assert await both(server, alice, room) == (2, 2)
    await alice.ok("DELETE", f"/pushrules/global/room/{quote(room, safe='')}")
    await bob.say(room, "x")
    assert await both(server, alice, room) == (5, 2)
    await alice.ok(
        "PUT", "/pushrules/global/override/.m.rule.master/enabled", body={"enabled": True}
    )
    await bob.say(room, "x")
    assert await both(server, alice, room) == (0, 0)


async def test_threads_are_counted_by_themselves(server: Running) -> None:
    alice, bob, room = await pair(server)
    root = await bob.say(room, "root")
    thread = {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}
    wanted = filtered(timeline={"unread_thread_notifications": True})

    async def told() -> tuple[Any, Any]:
        sections = [
            joined(await alice.sync(filter=wanted), room),
            joined(await alice.sync(filter=wanted, since="", remember=False), room),
        ]
        await server.restart()
        sections.append(joined(await alice.sync(filter=wanted, since="", remember=False), room))
        shown = [(_counts(one), one.get("unread_thread_notifications")) for one in sections]
        assert shown[0] == shown[1] == shown[2]
        return shown[0]

    assert await told() == ((2, 0), None)
    first = await bob.send(room, "m.room.message", _text(**thread))
    mention = {"m.mentions": {"user_ids": [alice.user_id]}}
    await bob.send(room, "m.room.message", _text(**thread, **mention))
    assert await told() == (
        (2, 0),
        {root: {"notification_count": 2, "highlight_count": 1}},
    )
    # Without the filter everything is one.
    assert _counts(joined(await alice.sync(since="", remember=False), room)) == (4, 1)
    await read(alice, room, root, thread_id="main")
    assert (await told())[0] == (0, 0)
    await read(alice, room, first, thread_id=root)
    assert await told() == (
        (0, 0),
        {root: {"notification_count": 1, "highlight_count": 1}},
    )
    # Speaking in a thread is reading it, and only it.
    await bob.say(room, "main")
    own = await alice.send(room, "m.room.message", _text(**thread))
    assert await told() == ((1, 0), None)
    await redact(alice, room, own)
    assert (await told())[1] is None
    last = await bob.send(room, "m.room.message", _text(**thread))
    await read(alice, room, last)
    assert await told() == ((0, 0), None)
