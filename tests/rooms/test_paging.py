"""History is read in pages that fit together; around an event; the members at a time.

spec: client-server-api#get_matrixclientv3roomsroomidmessages
"""

import json
from typing import Any

import pytest

from tests.rooms.paths import at
from tests.serving import Person, Running

COUNT = 210


async def messages(person: Person, room: str, **query: Any) -> dict[str, Any]:
    if "start" in query:
        query["from"] = query.pop("start")
    if "filter" in query:
        query["filter"] = json.dumps(query["filter"])
    page: dict[str, Any] = await person.ok("GET", at(room, "messages"), query=query)
    return page


def ids(events: list[dict[str, Any]]) -> list[str]:
    return [event["event_id"] for event in events]


async def chain(person: Person, room: str, **query: Any) -> list[str]:
    """The ids of all pages one after the other."""
    found: list[str] = []
    while True:
        page = await messages(person, room, **query)
        assert len(page["chunk"]) <= query.get("limit", 10)
        if "start" in query:
            assert page["start"] == query["start"]
        found += ids(page["chunk"])
        if "end" not in page:
            return found
        query["start"] = page["end"]


async def full_room(server: Running) -> tuple[Person, str, list[str]]:
    """Somebody in a room of over 200 events, and all their ids in order."""
    alice = await server.person("alice")
    room = await alice.create_room()
    for number in range(COUNT):
        await alice.say(room, f"{number}")
    everything = ids((await messages(alice, room, dir="f", limit=1_000))["chunk"])
    assert len(everything) > COUNT
    return alice, room, everything


async def test_pages_chain_without_gap_or_repeat(server: Running) -> None:
    alice, room, everything = await full_room(server)
    for limit in (7, 10, 64, len(everything), 1_000):
        assert await chain(alice, room, dir="f", limit=limit) == everything
        assert await chain(alice, room, dir="b", limit=limit) == everything[::-1]
    await server.restart()
    assert await chain(alice, room, dir="b") == everything[::-1]
    only = {"types": ["m.room.message"], "limit": 5}
    assert await chain(alice, room, dir="b", filter=only) == everything[: -COUNT - 1 : -1]
    assert await chain(alice, room, dir="f", filter=only) == everything[-COUNT:]
    none = await messages(alice, room, dir="b", filter={"types": ["m.none"]})
    assert none["chunk"] == []
    assert "end" not in none


async def test_tokens_turn_around_and_bound(server: Running) -> None:
    alice, room, everything = await full_room(server)
    late = await messages(alice, room, dir="b", limit=20)
    assert ids(late["chunk"]) == everything[:-21:-1]
    forth = await messages(alice, room, dir="f", start=late["end"], limit=100)
    assert ids(forth["chunk"]) == everything[-20:]
    assert "end" not in forth
    early = await messages(alice, room, dir="f", limit=20)
    between = await chain(alice, room, dir="f", start=early["end"], to=late["end"], limit=50)
    assert between == everything[20:-20]
    between = await chain(alice, room, dir="b", start=late["end"], to=early["end"], limit=50)
    assert between == everything[20:-20][::-1]
    empty = await messages(alice, room, dir="b", start=early["end"], to=early["end"])
    assert (empty["chunk"], "end" in empty) == ([], False)


async def test_tokens_of_sync_are_tokens_of_history(server: Running) -> None:
    alice, room, everything = await full_room(server)
    first = await alice.sync()
    section = first["rooms"]["join"][room]["timeline"]
    assert section["limited"]
    shown = ids(section["events"])
    before = await chain(alice, room, dir="b", start=section["prev_batch"], limit=50)
    assert before[::-1] + shown == everything
    news = [await alice.say(room, "news") for _ in range(3)]
    after = await messages(alice, room, dir="f", start=first["next_batch"])
    assert ids(after["chunk"]) == news
    latest = (await alice.sync())["next_batch"]
    back = await messages(alice, room, dir="b", start=latest, to=first["next_batch"])
    assert ids(back["chunk"]) == news[::-1]


async def test_nonsense_is_no_token(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    for name in ("from", "to"):
        query = {"dir": "b", name: "nonsense"}
        await alice.refused("M_INVALID_PARAM", "GET", at(room, "messages"), query=query)
    for query in ({"dir": "x"}, {"dir": "b", "limit": "-1"}, {"dir": "b", "limit": "x"}):
        await alice.refused("M_INVALID_PARAM", "GET", at(room, "messages"), query=query)
    await alice.refused("M_MISSING_PARAM", "GET", at(room, "messages"))
    await alice.refused("M_INVALID_PARAM", "GET", at(room, "members"), query={"at": "nonsense"})
    for text in ("{", "[]", '{"types": 1}', '{"limit": -1}'):
        query = {"dir": "b", "filter": text}
        await alice.refused("M_BAD_JSON", "GET", at(room, "messages"), query=query)


async def test_filters_choose_what_is_shown(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    sent = [
        await alice.say(room, "a"),
        await bob.say(room, "b"),
        await alice.send(room, "m.room.message", {"url": "mxc://a/b", "body": "c"}),
        await bob.send(room, "m.sticker", {"url": "mxc://a/b"}),
    ]
    expected: list[tuple[dict[str, Any], list[int]]] = [
        ({"types": ["m.room.message", "m.sticker"]}, [0, 1, 2, 3]),
        ({"types": ["m.st*"]}, [3]),
        ({"types": ["m.room.message", "m.sticker"], "not_types": ["m.room.*"]}, [3]),
        ({"contains_url": True}, [2, 3]),
        ({"contains_url": False, "types": ["m.room.message"]}, [0, 1]),
        ({"senders": [bob.user_id], "not_types": ["m.room.member"]}, [1, 3]),
        ({"not_senders": [bob.user_id], "types": ["m.room.message"]}, [0, 2]),
        ({"senders": []}, []),
        ({"rooms": [room], "types": ["m.sticker"]}, [3]),
        ({"not_rooms": [room]}, []),
        ({"types": []}, []),
    ]
    for chosen, numbers in expected:
        for direction in ("f", "b"):
            found = await chain(alice, room, dir=direction, filter=chosen)
            wanted = [sent[number] for number in numbers]
            assert found == (wanted if direction == "f" else wanted[::-1]), chosen


async def test_lazy_members_are_those_who_speak_as_they_were_then(server: Running) -> None:
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    await bob.ok("PUT", f"/profile/{bob.user_id}/displayname", body={"displayname": "Bob"})
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    await carol.join(room)
    spoken = await bob.say(room, "bye")
    await bob.ok("POST", at(room, "leave"), body={})
    lazy = {"lazy_load_members": True, "types": ["m.room.message"]}
    plain = await messages(alice, room, dir="b", filter={"types": ["m.room.message"]})
    assert "state" not in plain
    for direction in ("f", "b"):
        page = await messages(alice, room, dir=direction, filter=lazy)
        assert [event["state_key"] for event in page["state"]] == [bob.user_id]
        assert page["state"][0]["content"]["displayname"] == "Bob"
    query = {"filter": json.dumps({"lazy_load_members": True}), "limit": 0}
    context = await alice.ok("GET", at(room, "context", spoken), query=query)
    state = [(event["type"], event["state_key"]) for event in context["state"]]
    assert [key for type_, key in state if type_ == "m.room.member"] == [bob.user_id]
    assert ("m.room.create", "") in state


async def test_the_context_of_an_event(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(name="one")
    sent = [await alice.say(room, f"{number}") for number in range(20)]
    await alice.put_state(room, "m.room.name", {"name": "two"})
    path = at(room, "context", sent[9])
    for limit in (0, 1, 2, 5, 10, 11):
        context = await alice.ok("GET", path, query={"limit": limit})
        before, after = ids(context["events_before"]), ids(context["events_after"])
        assert context["event"]["event_id"] == sent[9]
        assert len(before) + len(after) == limit
        assert before == sent[9 - len(before) : 9][::-1]
        assert after == sent[10 : 10 + len(after)]
        backwards = await messages(alice, room, dir="b", start=context["start"], limit=1)
        assert ids(backwards["chunk"]) == [sent[8 - len(before)]]
        forwards = await messages(alice, room, dir="f", start=context["end"], limit=1)
        assert ids(forwards["chunk"]) == [sent[10 + len(after)]]
        named = [e["content"]["name"] for e in context["state"] if e["type"] == "m.room.name"]
        assert named == ["one"]
    assert len((await alice.ok("GET", path))["events_before"]) == 5
    last = await alice.ok("GET", at(room, "context", sent[19]), query={"limit": 4})
    assert len(last["events_after"]) == 1
    query = {"filter": '{"types":["m.room.name"]}'}
    chosen = await alice.ok("GET", path, query=query)
    assert {event["type"] for event in chosen["state"]} == {"m.room.name"}
    assert chosen["event"]["event_id"] == sent[9]
    assert [event["type"] for event in chosen["events_after"]] == ["m.room.name"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, {"alice", "bob", "carol", "dave"}),
        ({"membership": "join"}, {"alice"}),
        ({"membership": "ban"}, {"carol"}),
        ({"not_membership": "leave"}, {"alice", "carol", "dave"}),
        ({"membership": "join", "not_membership": "join"}, {"alice", "bob", "carol", "dave"}),
        ({"membership": "leave", "not_membership": "invite"}, {"alice", "bob", "carol"}),
    ],
)
async def test_members_by_membership(
    server: Running, query: dict[str, str], expected: set[str]
) -> None:
    people = {name: await server.person(name) for name in ("alice", "bob", "carol", "dave")}
    alice = people["alice"]
    room = await alice.create_room(preset="public_chat", invite=[people["dave"].user_id])
    await people["bob"].join(room)
    await people["bob"].ok("POST", at(room, "leave"), body={})
    await alice.ok("POST", at(room, "ban"), body={"user_id": people["carol"].user_id})
    members = (await alice.ok("GET", at(room, "members"), query=query))["chunk"]
    assert {event["state_key"] for event in members} == {people[name].user_id for name in expected}
    joined = (await alice.ok("GET", at(room, "joined_members")))["joined"]
    assert list(joined) == [alice.user_id]


async def test_members_at_a_time(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    before = (await alice.sync())["next_batch"]
    await bob.join(room)
    between = (await alice.sync())["next_batch"]
    await bob.ok("POST", at(room, "leave"), body={})

    async def members(**query: str) -> dict[str, str]:
        chunk = (await alice.ok("GET", at(room, "members"), query=query))["chunk"]
        return {event["state_key"]: event["content"]["membership"] for event in chunk}

    assert await members(at=before) == {alice.user_id: "join"}
    assert await members(at=between) == {alice.user_id: "join", bob.user_id: "join"}
    assert await members(at=between, membership="leave") == {}
    assert (await members())[bob.user_id] == "leave"
