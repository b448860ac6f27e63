"""What was redacted is gone for everybody who asks later, wherever it is kept.

spec: client-server-api#redactions
"""

import json

from tests.serving import Running
from tests.streams.reading import filtered, joined, messages, redact, said, state_of


async def test_whoever_syncs_later_doesnt_see_what_was_redacted(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    await bob.sync()
    since = bob.since
    secret = await alice.say(room, "the secret")
    kept = await alice.say(room, "kept")
    assert "the secret" in json.dumps(await bob.sync())
    redaction = await redact(alice, room, secret)

    (event,) = joined(await bob.sync(), room)["timeline"]["events"]
    assert event["event_id"] == redaction
    assert secret in (event["content"]["redacts"], event.get("redacts"))
    for start in (since, ""):
        for _ in range(2):
            answer = await bob.sync(since=start, remember=False)
            assert "the secret" not in json.dumps(answer)
            section = joined(answer, room)
            assert said(section)[-3:] == [secret, kept, redaction]
            gone = section["timeline"]["events"][-3]
            assert gone["content"] == {}
            assert gone["unsigned"]["redacted_because"]["event_id"] == redaction
            await server.restart()


async def test_nor_does_it_show_in_what_came_after(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    await bob.sync()
    since = bob.since
    secret = await alice.put_state(room, "test.state", {"text": "the secret"})
    await alice.put_state(room, "test.state", {"text": "open"})
    assert "the secret" in json.dumps(await bob.sync())
    await redact(alice, room, secret)
    for start in (since, ""):
        answer = await bob.sync(since=start, remember=False)
        assert "the secret" not in json.dumps(answer)
        state = joined(answer, room)["timeline"]["events"][-2]
        assert state["content"] == {"text": "open"}
        assert state["unsigned"]["prev_content"] == {}
        assert state["unsigned"]["replaces_state"] == secret


async def test_current_state_that_was_redacted_stays_what_it_is_but_empty(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(name="the secret")
    named = (await alice.ok("GET", f"/rooms/{room}/state/m.room.name/?format=event"))["event_id"]
    await alice.sync()
    await redact(alice, room, named)
    await alice.say(room, "x")
    answer = await alice.sync(since="", filter=filtered(limit=1))
    assert "the secret" not in json.dumps(answer)
    name = state_of(joined(answer, room))["m.room.name", ""]
    assert (name["event_id"], name["content"]) == (named, {})
    # Without a name there are heroes again.
    assert joined(answer, room)["summary"]["m.heroes"] == []


async def test_a_second_redaction_changes_nothing_of_the_event(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    await alice.sync()
    since = alice.since
    secret = await alice.say(room, "the secret")
    first = await redact(alice, room, secret)
    path = f"/rooms/{room}/redact/{secret.replace('$', '%24')}/another"
    await alice.ok("PUT", path, body={})
    for _ in range(2):
        events = joined(await alice.sync(since=since), room)["timeline"]["events"]
        assert events[0]["unsigned"]["redacted_because"]["event_id"] == first
        await server.restart()


async def test_a_redacted_picture_is_no_picture(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    await alice.sync()
    since = alice.since
    content = {"msgtype": "m.image", "body": "x", "url": "mxc://test.example/x"}
    picture = await alice.send(room, "m.room.message", content)
    pictures = filtered(timeline={"contains_url": True})
    assert said(joined(await alice.sync(since=since, filter=pictures), room)) == [picture]
    await redact(alice, room, picture)
    answer = await alice.sync(since=since, filter=pictures)
    assert said(joined(answer, room)) == []
    prev_batch = joined(await alice.sync(since=""), room)["timeline"]["prev_batch"]
    assert picture not in await messages(alice, room, prev_batch)
