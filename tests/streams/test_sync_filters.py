"""Each field of a filter, on sync.

spec: client-server-api#filtering
"""

import json
from typing import Any
from urllib.parse import quote

from tests.serving import Person, Running
from tests.streams.reading import filtered, joined, keep, read, said, state_of, told, typing


async def synced(person: Person, **filter_: Any) -> Any:
    return await person.sync(since="", remember=False, filter=json.dumps(filter_))


async def test_rooms_and_not_rooms(server: Running) -> None:
    alice = await server.person("alice")
    first, second = await alice.create_room(), await alice.create_room()
    for wanted in (
        {"rooms": [first]},
        {"not_rooms": [second]},
        {"rooms": [first, second], "not_rooms": [second]},
    ):
        answer = await synced(alice, room=wanted)
        assert set(answer["rooms"]["join"]) == {first}
    assert "rooms" not in await synced(alice, room={"rooms": []})
    # For each part, too: then the room is there, and that part of it empty.
    section = joined(await synced(alice, room={"timeline": {"not_rooms": [first]}}), first)
    assert said(section) == []
    assert ("m.room.create", "") in state_of(section)
    section = joined(await synced(alice, room={"state": {"rooms": [second]}}), first)
    assert section["state"]["events"] == []
    # What is filtered out is not told later either.
    since = (await alice.sync())["next_batch"]
    await alice.say(second, "x")
    only_first = filtered(rooms=[first])
    assert told(await alice.sync(since=since, filter=only_first)) == set()


async def test_timeline_filters(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    since = (await alice.sync())["next_batch"]
    one = await alice.say(room, "one")
    two = await bob.send(room, "test.one", {"url": "mxc://test.example/x"})
    three = await bob.send(room, "test.two", {"url": 5})
    table: list[tuple[dict[str, Any], list[str]]] = [
        ({}, [one, two, three]),
        ({"types": ["m.room.message"]}, [one]),
        ({"types": ["test.*"]}, [two, three]),
        ({"types": ["*.two", "m.room.message"]}, [one, three]),
        ({"types": []}, []),
        ({"not_types": ["test.*"]}, [one]),
        ({"types": ["test.*"], "not_types": ["test.one"]}, [three]),
        ({"senders": [bob.user_id]}, [two, three]),
        ({"not_senders": [bob.user_id]}, [one]),
        ({"senders": [bob.user_id], "not_senders": [bob.user_id]}, []),
        ({"contains_url": True}, [two]),
        ({"contains_url": False}, [one, three]),
        ({"limit": 1}, [three]),
        ({"limit": 1, "types": ["test.one"]}, [two]),
        ({"rooms": [room]}, [one, two, three]),
        ({"not_rooms": [room]}, []),
    ]
    for wanted, expected in table:
        query = {"since": since, "filter": filtered(timeline=wanted), "remember": False}
        answer = await alice.sync(**query)
        shown = said(joined(answer, room)) if "rooms" in answer else []
        assert shown == expected, wanted
        if not set(wanted) - {"limit"}:
            assert joined(answer, room)["timeline"]["limited"] is ("limit" in wanted)


async def test_state_filters(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(name="a", topic="b")
    for _ in range(12):
        await alice.say(room, "x")
    for wanted, types in (
        ({"types": ["m.room.name"]}, {"m.room.name"}),
        ({"types": ["m.room.t*"]}, {"m.room.topic"}),
        ({"types": []}, set()),
        ({"types": ["m.room.name", "m.room.topic"], "not_types": ["*topic"]}, {"m.room.name"}),
        ({"not_senders": [alice.user_id]}, set()),
    ):
        section = joined(await synced(alice, room={"state": wanted}), room)
        assert {type_ for type_, _ in state_of(section)} == types


async def test_ephemeral_and_account_data_filters(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    event_id = await alice.say(room, "x")
    await typing(alice, room)
    await read(alice, room, event_id)
    await keep(alice, "test.one", {"n": 1})
    await keep(alice, "test.two", {"n": 1})
    await keep(alice, "test.one", {"n": 1}, room)
    await keep(alice, "test.two", {"n": 1}, room)

    def types(part: Any) -> set[str]:
        return {event["type"] for event in part["events"]} if part else set()

    for wanted, expected in (
        ({}, {"m.typing", "m.receipt"}),
        ({"types": ["m.receipt"]}, {"m.receipt"}),
        ({"not_types": ["m.receipt"]}, {"m.typing"}),
        ({"types": []}, set()),
        ({"not_rooms": [room]}, set()),
    ):
        section = joined(await synced(alice, room={"ephemeral": wanted}), room)
        assert types(section.get("ephemeral")) == expected
    for wanted, expected in (
        ({"types": ["test.one"]}, {"test.one"}),
        ({"not_types": ["test.o*"]}, {"test.two"}),
        ({"types": []}, set()),
    ):
        answer = await synced(alice, room={"account_data": wanted}, account_data=wanted)
        assert types(answer.get("account_data")) - {"m.push_rules"} == expected
        assert types(joined(answer, room).get("account_data")) == expected


async def test_event_fields_and_formats(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    event_id = await alice.say(room, "x")
    section = joined(await synced(alice, event_fields=["type", "content.body"]), room)
    assert section["timeline"]["events"][-1] == {"type": "m.room.message", "content": {"body": "x"}}
    section = joined(await synced(alice, event_format="federation"), room)
    event = section["timeline"]["events"][-1]
    assert event["event_id"] == event_id
    assert {"auth_events", "prev_events", "hashes", "signatures", "depth", "room_id"} <= set(event)
    both = {"event_format": "federation", "event_fields": ["depth"]}
    section = joined(await synced(alice, **both), room)
    assert set(section["timeline"]["events"][-1]) == {"depth"}


async def test_a_stored_filter_does_what_the_inline_one_does(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    await alice.say(room, "x")
    wanted = {"room": {"timeline": {"types": ["m.room.message"], "limit": 1}}}
    path = f"/user/{quote(alice.user_id, safe='')}/filter"
    filter_id = (await alice.ok("POST", path, body=wanted))["filter_id"]
    inline = await synced(alice, **wanted)
    for _ in range(2):
        stored = await alice.sync(since="", remember=False, filter=filter_id)
        assert (
            joined(stored, room)["timeline"]["events"] == joined(inline, room)["timeline"]["events"]
        )
        await server.restart()
    await alice.refused("M_NOT_FOUND", "GET", "/sync", query={"filter": "987654"})
    for wrong in ("{", '{"room": 5}', '{"room": {"timeline": {"limit": "x"}}}'):
        reply = await alice.raw("GET", "/sync", query={"filter": wrong})
        assert reply.status == 400, wrong
