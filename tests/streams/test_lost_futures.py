"""Tokens over restarts, and tokens of a future that an older copy of the database never had."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.serving import Person, Running
from tests.streams.reading import ALWAYS, filtered, invite, joined, moved, said, state_of, told


async def pair(server: Running) -> tuple[Person, Person, str]:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat", name="Room")
    await bob.join(room)
    await alice.sync()
    await bob.sync()
    return alice, bob, room


async def test_a_token_outlives_restarts(server: Running) -> None:
    alice, bob, room = await pair(server)
    sent = []
    for number in range(3):
        sent.append(await bob.say(room, str(number)))
        await server.restart()
    answer = await alice.sync()
    assert said(joined(answer, room)) == sent
    assert joined(answer, room)["timeline"]["limited"] is False
    await server.restart()
    assert told(await alice.sync()) == set()


async def test_what_is_no_token_is_refused(server: Running) -> None:
    alice = await server.person("alice")
    token = (await alice.sync())["next_batch"]
    for wrong in ("x", "s1", token[:-3], token + "x", "t" + token[1:], token.upper(), "1", "-1"):
        reply = await alice.raw("GET", "/sync", query={"since": wrong})
        if wrong != token:
            assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM"), wrong


async def test_a_token_of_the_future_gets_everything_at_once(server: Running) -> None:
    alice, bob, room = await pair(server)
    assert alice.since is not None
    pos = server.app.services.sync.position.pos
    future = alice.since.replace(f"_{pos}_", f"_{pos + 1_000}_")
    assert future != alice.since
    answer = await alice.sync(since=future, timeout=30_000)
    section = joined(answer, room)
    assert section["timeline"]["limited"] is True
    heard = await bob.say(room, "x")
    assert said(joined(await alice.sync(), room)) == [heard]


@pytest.mark.parametrize("database_settings", ["sqlite"], indirect=True)
async def test_after_an_older_copy_was_put_back_all_is_told_anew(
    server: Running, tmp_path: Path
) -> None:
    alice, bob, room = await pair(server)
    left_later = await alice.create_room(preset="public_chat")
    invited = await alice.create_room(invite=[bob.user_id])
    await bob.join(left_later)
    await bob.sync()
    await moved(bob, left_later, "leave")
    early = bob.since
    await bob.sync()
    data = server.config.database.sqlite_path
    assert data is not None
    await server.restart()
    await server.app.stop()
    copy = tmp_path / "copy"
    shutil.copy(data, copy)
    await server.app.start()

    # The future: it will not have been.
    lost = await alice.say(room, "lost")
    await alice.put_state(room, "m.room.name", {"name": "Lost"})
    await bob.join(left_later)
    await bob.join(invited)
    answer = await bob.sync()
    assert lost in said(joined(answer, room))
    assert {left_later, invited} <= set(answer["rooms"]["join"])

    await server.app.stop()
    for part in data.parent.glob(f"{data.name}*"):
        part.unlink()
    shutil.copy(copy, data)
    await server.app.start()
    await server.clock.advance(1)
    answer = await bob.sync(timeout=30_000, filter=filtered(limit=5))
    section = joined(answer, room)
    assert section["timeline"]["limited"] is True
    assert lost not in said(section)
    told = {**state_of(section), **_told(section)}
    assert told["m.room.name", ""]["content"] == {"name": "Room"}
    assert ("m.room.create", "") in told
    assert set(answer["rooms"]["join"]) == {room}
    assert set(answer["rooms"]["invite"]) == {invited}
    # It believed to be in that room.
    assert left_later in answer["rooms"]["leave"]
    # Once: then it goes on as ever. A token from before the copy was good all the time.
    assert set(await bob.sync()) == ALWAYS
    heard = await alice.say(room, "real")
    assert said(joined(await bob.sync(), room)) == [heard]
    await invite(alice, await alice.create_room(), bob)
    section = joined(await bob.sync(since=early), room)
    assert said(section) == [heard]
    assert section["timeline"]["limited"] is False


def _told(section: Any) -> dict[tuple[str, str], Any]:
    return {
        (event["type"], event["state_key"]): event
        for event in section["timeline"]["events"]
        if "state_key" in event
    }
