"""What clients used before there was /sync, and what switching it off takes away."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.streams import event_stream
from tests.serving import Person, Running


def of(room_id: str, rest: str) -> str:
    return f"/rooms/{quote(room_id, safe='')}/{rest}"


async def events(person: Person, start: str | None = None, **query: Any) -> Any:
    if start is not None:
        query["from"] = start
    return await person.ok("GET", "/events", query={"timeout": 0, **query})


def bodies(answer: Any) -> list[str]:
    return [event["content"].get("body", event["type"]) for event in answer["chunk"]]


async def test_events_begin_now_and_go_on_from_their_token(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    first = await events(bob)
    assert first["chunk"] == []
    event_id = await alice.say(room_id, "one")
    second = await events(bob, first["end"])
    (event,) = second["chunk"]
    assert second["start"] == first["end"]
    assert (event["event_id"], event["room_id"], event["sender"], event["content"]["body"]) == (
        event_id,
        room_id,
        alice.user_id,
        "one",
    )
    assert (await events(bob, second["end"]))["chunk"] == []


async def test_events_of_several_rooms_come_in_order(server: Running) -> None:
    alice = await server.person("alice")
    rooms = [await alice.create_room() for _ in range(2)]
    start = (await events(alice))["end"]
    for number in range(6):
        await alice.say(rooms[number % 2], str(number))
    answer = await events(alice, start)
    assert bodies(answer) == ["0", "1", "2", "3", "4", "5"]
    assert {event["room_id"] for event in answer["chunk"]} == set(rooms)


async def test_what_does_not_fit_comes_next(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "MOST_EVENTS", 3)
    alice = await server.person("alice")
    rooms = [await alice.create_room() for _ in range(2)]
    start = (await events(alice))["end"]
    for number in range(10):
        await alice.say(rooms[number in (1, 5, 8)], str(number))
    found: list[str] = []
    while answer := await events(alice, start):
        if not answer["chunk"]:
            break
        assert len(answer["chunk"]) <= 3
        found += bodies(answer)
        start = answer["end"]
    assert found == [str(number) for number in range(10)]


async def test_events_wait_for_news(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    start = (await events(bob))["end"]
    waiting = asyncio.create_task(events(bob, start, timeout=30_000))
    await server.parked()
    await alice.say(room_id, "hello")
    assert bodies(await waiting) == ["hello"]
    waiting = asyncio.create_task(events(bob, timeout=30_000))
    await server.parked()
    await server.clock.advance(30)
    assert (await waiting)["chunk"] == []


async def test_invites_and_departures_are_events(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await alice.create_room()
    await alice.say(room_id, "before")
    start = (await events(bob))["end"]
    await alice.ok("POST", of(room_id, "invite"), body={"user_id": bob.user_id})
    invited = await events(bob, start)
    await bob.join(room_id)
    await alice.say(room_id, "inside")
    joined = await events(bob, invited["end"])
    await alice.ok("POST", of(room_id, "kick"), body={"user_id": bob.user_id})
    await alice.say(room_id, "after")
    kicked = await events(bob, joined["end"])

    def shown(answer: Any) -> list[str]:
        return [
            event["content"].get("membership") or event["content"]["body"]
            for event in answer["chunk"]
        ]

    assert shown(invited) == ["invite"]
    assert invited["chunk"][0]["room_id"] == room_id
    assert shown(joined) == ["join", "inside"]
    assert shown(kicked) == ["leave"]
    assert (await events(bob, kicked["end"]))["chunk"] == []


async def test_typing_and_receipts_come_with_their_room(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    event_id = await alice.say(room_id, "hello")
    start = (await events(alice))["end"]
    await bob.ok("PUT", of(room_id, f"typing/{bob.user_id}"), body={"typing": True})
    await bob.ok("POST", of(room_id, f"receipt/m.read/{quote(event_id, safe='')}"), body={})
    answer = await events(alice, start)
    told = {event["type"]: (event["room_id"], event["content"]) for event in answer["chunk"]}
    assert told["m.typing"] == (room_id, {"user_ids": [bob.user_id]})
    assert list(told["m.receipt"][1]) == [event_id]
    assert (await events(alice, answer["end"]))["chunk"] == []


async def test_events_of_ignored_users_are_left_out(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    path = f"/user/{bob.user_id}/account_data/m.ignored_user_list"
    await bob.ok("PUT", path, body={"ignored_users": {alice.user_id: {}}})
    start = (await events(bob))["end"]
    await alice.say(room_id, "hidden")
    await alice.put_state(room_id, "m.room.topic", {"topic": "state is shown"})
    await bob.say(room_id, "mine")
    assert bodies(await events(bob, start)) == ["m.room.topic", "mine"]
    assert bodies(await events(bob, start, room_id=room_id)) == ["m.room.topic", "mine"]


async def test_a_readable_room_is_watched_from_outside(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await alice.create_room(preset="public_chat")
    other = await alice.create_room(preset="public_chat")
    await bob.refused("M_FORBIDDEN", "GET", "/events", query={"room_id": room_id})
    await alice.put_state(
        room_id, "m.room.history_visibility", {"history_visibility": "world_readable"}
    )
    start = (await events(bob, room_id=room_id))["end"]
    await alice.say(other, "elsewhere")
    await alice.say(room_id, "here")
    answer = await events(bob, start, room_id=room_id)
    assert bodies(answer) == ["here"]
    waiting = asyncio.create_task(events(bob, answer["end"], room_id=room_id, timeout=30_000))
    await server.parked()
    await alice.say(other, "elsewhere")
    await alice.say(room_id, "again")
    assert bodies(await waiting) == ["again"]
    await alice.put_state(room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    await bob.refused("M_FORBIDDEN", "GET", "/events", query={"room_id": room_id})


async def test_wrong_tokens_are_refused(server: Running) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    for query in ({"from": "x"}, {"from": "x", "room_id": room_id}, {"timeout": "soon"}):
        await alice.refused("M_INVALID_PARAM", "GET", "/events", query=query)
    await alice.refused("M_INVALID_PARAM", "GET", "/events", query={"room_id": "room"})
    reply = await server.request("GET", "/_matrix/client/v3/events")
    assert (reply.status, reply.errcode) == (401, "M_MISSING_TOKEN")


async def test_a_token_of_a_lost_future_leads_on(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "MOST_EVENTS", 2)
    alice = await server.person("alice")
    room_id = await alice.create_room()
    start = (await events(alice))["end"]
    for number in range(3):
        await alice.say(room_id, str(number))
    fields = start.split("_")
    fields[2] = "0" * 16
    lost = "_".join(fields)
    first = await events(alice, lost)
    assert bodies(first) == ["0", "1"]
    assert bodies(await events(alice, first["end"])) == ["2"]
    fields[3] = "9" * 12
    beyond = await events(alice, "_".join(fields))
    assert beyond["chunk"] == []
    await alice.say(room_id, "3")
    assert bodies(await events(alice, beyond["end"])) == ["3"]


async def test_one_event_is_found_by_its_id_alone(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await alice.create_room()
    event_id = await alice.say(room_id, "hello")
    path = f"/events/{quote(event_id, safe='')}"
    event = await alice.ok("GET", path)
    assert (event["event_id"], event["room_id"]) == (event_id, room_id)
    for person, event_path in ((bob, path), (alice, "/events/%24nothing")):
        await person.refused("M_NOT_FOUND", "GET", event_path)


async def test_the_initial_sync_tells_every_room(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    open_room = await alice.create_room(preset="public_chat", visibility="public", name="Open")
    left, private = [await alice.create_room(preset="public_chat") for _ in range(2)]
    for room_id in (open_room, left):
        await bob.join(room_id)
    for number in range(3):
        await alice.say(open_room, str(number))
    await bob.ok("PUT", f"/user/{bob.user_id}/account_data/org.example", body={"a": 1})
    tag = f"/user/{bob.user_id}/rooms/{quote(open_room, safe='')}/tags/u.work"
    await bob.ok("PUT", tag, body={"order": 0.5})
    await bob.ok("POST", of(left, "leave"))
    await alice.ok("POST", of(private, "invite"), body={"user_id": bob.user_id})

    answer = await bob.ok("GET", "/initialSync", query={"limit": 2})
    rooms = {room["room_id"]: room for room in answer["rooms"]}
    assert rooms.keys() == {open_room, private}
    shown = rooms[open_room]
    assert (shown["membership"], shown["visibility"]) == ("join", "public")
    assert bodies(shown["messages"]) == ["1", "2"]
    assert {event["room_id"] for event in shown["messages"]["chunk"]} == {open_room}
    state = {(event["type"], event["state_key"]): event["content"] for event in shown["state"]}
    assert state["m.room.name", ""] == {"name": "Open"}
    assert state["m.room.member", bob.user_id]["membership"] == "join"
    assert shown["account_data"] == [
        {"type": "m.tag", "content": {"tags": {"u.work": {"order": 0.5}}}}
    ]
    query = {"from": shown["messages"]["start"], "dir": "b", "limit": 1}
    assert bodies(await bob.ok("GET", of(open_room, "messages"), query=query)) == ["0"]
    invite = rooms[private]
    assert (invite["membership"], invite["inviter"]) == ("invite", alice.user_id)
    assert invite["invite"]["content"]["membership"] == "invite"
    assert invite["invite"]["room_id"] == private
    assert {"type": "org.example", "content": {"a": 1}} in answer["account_data"]
    assert answer["presence"] == []

    everything = await bob.ok("GET", "/initialSync", query={"archived": "true", "limit": 0})
    memberships = {room["room_id"]: room["membership"] for room in everything["rooms"]}
    assert memberships == {open_room: "join", left: "leave", private: "invite"}
    assert all(not room["messages"]["chunk"] for room in everything["rooms"] if "messages" in room)

    await alice.say(open_room, "later")
    assert bodies(await events(bob, answer["end"])) == ["later"]


async def test_the_initial_sync_of_one_room(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await alice.create_room(preset="public_chat", name="Before")
    await bob.refused("M_FORBIDDEN", "GET", of(room_id, "initialSync"))
    await bob.join(room_id)
    for number in range(3):
        await alice.say(room_id, str(number))
    await bob.ok(
        "PUT",
        f"/user/{bob.user_id}/rooms/{quote(room_id, safe='')}/account_data/org.example",
        body={"a": 1},
    )
    answer = await bob.ok("GET", of(room_id, "initialSync"), query={"limit": 2})
    assert (answer["room_id"], answer["membership"]) == (room_id, "join")
    assert answer["visibility"] == "private"
    assert bodies(answer["messages"]) == ["1", "2"]
    assert answer["account_data"] == [{"type": "org.example", "content": {"a": 1}}]
    query = {"from": answer["messages"]["start"], "dir": "b", "limit": 1}
    assert bodies(await bob.ok("GET", of(room_id, "messages"), query=query)) == ["0"]
    await alice.say(room_id, "3")
    assert bodies(await events(bob, answer["messages"]["end"])) == ["3"]

    await bob.ok("POST", of(room_id, "leave"))
    await alice.put_state(room_id, "m.room.name", {"name": "After"})
    gone = await bob.ok("GET", of(room_id, "initialSync"))
    assert gone["membership"] == "leave"
    names = [e["content"]["name"] for e in gone["state"] if e["type"] == "m.room.name"]
    assert names == ["Before"]
    assert gone["messages"]["chunk"][-1]["content"]["membership"] == "leave"


async def test_a_readable_room_is_shown_to_who_never_was_in_it(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    visible = {"history_visibility": "world_readable"}
    state = [{"type": "m.room.history_visibility", "content": visible}]
    room_id = await alice.create_room(preset="public_chat", initial_state=state)
    await alice.say(room_id, "hello")
    answer = await bob.ok("GET", of(room_id, "initialSync"), query={"limit": 1})
    assert bodies(answer["messages"]) == ["hello"]
    assert "membership" not in answer


async def test_old_paths_and_tokens_in_the_query(server: Running) -> None:
    alice = await server.person("alice")
    for path in ("/_matrix/client/v3/account/whoami", "/_matrix/client/r0/account/whoami"):
        reply = await server.request("GET", path, query={"access_token": alice.token})
        assert reply.body["user_id"] == alice.user_id


@pytest.mark.parametrize("settings", [{"compat": {"old_clients": False}}])
async def test_one_option_turns_all_of_it_off(server: Running) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    paths = ("/events", "/events/%24x", "/initialSync", of(room_id, "initialSync"))
    for path in (*paths, "/_matrix/client/r0/account/whoami"):
        reply = await alice.refused("M_UNRECOGNIZED", "GET", path)
        assert reply.status == 404
    whoami = "/_matrix/client/v3/account/whoami"
    reply = await server.request("GET", whoami, query={"access_token": alice.token})
    assert (reply.status, reply.errcode) == (401, "M_MISSING_TOKEN")
    assert (await alice.ok("GET", whoami))["user_id"] == alice.user_id
