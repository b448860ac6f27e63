"""Summaries of rooms, spaces, rooms in common, events by their time."""

from typing import Any
from urllib.parse import quote

from tests.serving import Person, Running

V1 = "/_matrix/client/v1"


async def child(person: Person, space: str, room: str, **more: Any) -> None:
    await person.put_state(space, "m.space.child", {"via": ["test.example"], **more}, room)


async def tree(person: Person, space: str, **query: Any) -> Any:
    return await person.ok("GET", f"{V1}/rooms/{quote(space, safe='')}/hierarchy", query=query)


def ids(answer: Any) -> list[str]:
    return [room["room_id"] for room in answer["rooms"]]


async def make(person: Person, name: str, **more: Any) -> str:
    return await person.create_room(name=name, preset="public_chat", **more)


async def make_space(person: Person, name: str) -> str:
    return await make(person, name, creation_content={"type": "m.space"})


async def test_a_tree_is_walked_depth_first_in_its_order(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    top, sub = await make_space(alice, "top"), await make_space(alice, "sub")
    rooms = [await make(alice, f"room {number}") for number in range(4)]
    await child(alice, top, rooms[0])
    await server.clock.advance(1)
    await child(alice, top, rooms[1], order="b")
    await child(alice, top, sub, order="a")
    await child(alice, sub, rooms[2])
    await child(alice, sub, top)
    await child(alice, sub, rooms[1])
    await server.clock.advance(1)
    await child(alice, top, rooms[3], suggested=True)
    found = await tree(bob, top)
    assert ids(found) == [top, sub, rooms[1], rooms[2], rooms[0], rooms[3]] or ids(found) == [
        top,
        sub,
        rooms[2],
        rooms[1],
        rooms[0],
        rooms[3],
    ]
    assert "next_batch" not in found
    first = found["rooms"][0]
    assert first["room_type"] == "m.space"
    assert first["name"] == "top"
    assert first["num_joined_members"] == 1
    assert len(first["children_state"]) == 4
    assert first["children_state"][0]["state_key"] == sub
    assert first["children_state"][0].keys() >= {"content", "origin_server_ts", "sender", "type"}
    assert found["rooms"][2]["children_state"] == []
    assert ids(await tree(bob, top, suggested_only="true")) == [top, rooms[3]]
    assert ids(await tree(bob, top, max_depth=1)) == [top, sub, rooms[1], rooms[0], rooms[3]]
    assert ids(await tree(bob, top, max_depth=0)) == [top]


async def test_a_tree_comes_in_pages(server: Running) -> None:
    alice = await server.person("alice")
    top = await make_space(alice, "top")
    for number in range(7):
        await child(alice, top, await make(alice, f"room {number}"), order=str(number))
    whole = ids(await tree(alice, top))
    told: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    while True:
        page = await tree(alice, top, **query)
        assert len(page["rooms"]) <= 3
        told += ids(page)
        if "next_batch" not in page:
            break
        query["from"] = page["next_batch"]
    assert told == whole
    path = f"{V1}/rooms/{quote(top, safe='')}/hierarchy"
    page = await tree(alice, top, limit=3)
    for wrong in (
        {"from": "nonsense"},
        {"from": page["next_batch"], "suggested_only": "true"},
        {"from": page["next_batch"], "max_depth": 2},
    ):
        await alice.refused("M_INVALID_PARAM", "GET", path, query=wrong)


async def test_only_rooms_that_one_may_see_are_told(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    top = await make_space(alice, "top")
    hidden = await alice.create_room(name="hidden")
    invited = await alice.create_room(name="invited", invite=[bob.user_id])
    allow = [{"type": "m.room_membership", "room_id": top}]
    rules = {"join_rule": "restricted", "allow": allow}
    members = await alice.create_room(
        name="for members", initial_state=[{"type": "m.room.join_rules", "content": rules}]
    )
    for room in (hidden, invited, members):
        await child(alice, top, room)
    assert set(ids(await tree(bob, top))) == {top, invited}
    await bob.join(top)
    found = await tree(bob, top)
    assert set(ids(found)) == {top, invited, members}
    (entry,) = [room for room in found["rooms"] if room["room_id"] == members]
    assert entry["allowed_room_ids"] == [top]
    assert entry["join_rule"] == "restricted"
    await bob.refused("M_FORBIDDEN", "GET", f"{V1}/rooms/{quote(hidden, safe='')}/hierarchy")
    await bob.refused("M_FORBIDDEN", "GET", f"{V1}/rooms/%21unknown%3Atest.example/hierarchy")


async def test_a_summary_tells_what_a_room_is(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await make(alice, "open", room_alias_name="open", topic="its topic")
    path = f"{V1}/room_summary/"
    found = await bob.ok("GET", path + quote(room, safe=""))
    assert found["membership"] == "leave"
    assert found["name"] == "open"
    assert found["topic"] == "its topic"
    assert found["join_rule"] == "public"
    assert found["room_version"] == "12"
    assert found["num_joined_members"] == 1
    assert (await alice.ok("GET", path + "%23open%3Atest.example"))["membership"] == "join"
    anonymous = await server.request("GET", path + quote(room, safe=""))
    assert anonymous.status == 200
    assert "membership" not in anonymous.body
    hidden = await alice.create_room(name="hidden")
    await bob.refused("M_NOT_FOUND", "GET", path + quote(hidden, safe=""))
    assert (await server.request("GET", path + quote(hidden, safe=""))).status == 404
    await bob.refused("M_NOT_FOUND", "GET", path + "%21unknown%3Atest.example")
    unstable = "/_matrix/client/unstable/im.nheko.summary/summary/"
    assert (await bob.ok("GET", unstable + quote(room, safe="")))["name"] == "open"


async def test_who_is_banned_hears_nothing_of_the_room(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await make(alice, "open")
    body = {"user_id": bob.user_id}
    await alice.ok("POST", f"/rooms/{quote(room, safe='')}/ban", body=body)
    await bob.refused("M_NOT_FOUND", "GET", f"{V1}/room_summary/{quote(room, safe='')}")


async def test_rooms_in_common(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    rooms = [await make(alice, f"{number}") for number in range(3)]
    for room in rooms[:2]:
        await bob.join(room)
    path = f"{V1}/mutual_rooms"
    found = await bob.ok("GET", path, query={"user_id": alice.user_id})
    assert sorted(found["joined"]) == sorted(rooms[:2])
    assert found["count"] == 2
    assert "next_batch" not in found
    nobody = await bob.ok("GET", path, query={"user_id": "@nobody:test.example"})
    assert nobody == {"joined": [], "count": 0}
    await bob.refused("M_INVALID_PARAM", "GET", path, query={"user_id": bob.user_id})
    query = {"user_id": alice.user_id, "from": "nonsense"}
    await bob.refused("M_INVALID_PARAM", "GET", path, query=query)


async def test_events_by_their_time(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(
        preset="public_chat",
        initial_state=[
            {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
        ],
    )
    await server.clock.advance(10)
    first = await alice.say(room, "first")
    at = server.clock.now_ms()
    await server.clock.advance(10)
    await bob.join(room)
    second = await alice.say(room, "second")
    path = f"{V1}/rooms/{quote(room, safe='')}/timestamp_to_event"
    found = await alice.ok("GET", path, query={"ts": at + 1, "dir": "b"})
    assert found == {"event_id": first, "origin_server_ts": at}
    found = await alice.ok("GET", path, query={"ts": at, "dir": "f"})
    assert found["event_id"] == first
    late = {"ts": at + 60_000, "dir": "f"}
    await alice.refused("M_NOT_FOUND", "GET", path, query=late)
    # What was said before the join is hidden: the nearest that bob may read is older.
    found = await bob.ok("GET", path, query={"ts": at + 1, "dir": "b"})
    assert found["event_id"] != first
    found = await bob.ok("GET", path, query={"ts": at + 60_000, "dir": "b"})
    assert found["event_id"] == second
    eve = await server.person("eve")
    await eve.refused("M_FORBIDDEN", "GET", path, query={"ts": at, "dir": "b"})
