"""Who was in a room at a token. spec: client-server-api#get_matrixclientv3roomsroomidmembers"""

from typing import Any
from urllib.parse import quote

from tests.serving import Person, Running


def of(room_id: str, rest: str) -> str:
    return f"/rooms/{quote(room_id, safe='')}/{rest}"


async def members(person: Person, room_id: str, **query: Any) -> dict[str, str]:
    chunk = (await person.ok("GET", of(room_id, "members"), query=query))["chunk"]
    return {event["state_key"]: event["content"]["membership"] for event in chunk}


async def test_members_are_told_as_of_a_token(server: Running) -> None:
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    room_id = await alice.create_room(preset="public_chat")
    alone = (await alice.sync())["next_batch"]
    await bob.join(room_id)
    await alice.say(room_id, "hello")
    page = await alice.ok("GET", of(room_id, "messages"), query={"dir": "b", "limit": 1})
    await carol.join(room_id)
    await bob.ok("POST", of(room_id, "leave"))
    now = {alice.user_id: "join", bob.user_id: "leave", carol.user_id: "join"}
    two = {alice.user_id: "join", bob.user_id: "join"}
    assert await members(alice, room_id) == now
    assert await members(alice, room_id, at=alone) == {alice.user_id: "join"}
    for at in (page["start"], page["end"]):
        assert await members(alice, room_id, at=at) == two
    joined = {alice.user_id: "join", carol.user_id: "join"}
    assert await members(alice, room_id, membership="join") == joined
    assert await members(alice, room_id, not_membership="join") == {bob.user_id: "leave"}
    assert await members(alice, room_id, at=alone, not_membership="join") == {}
    await server.restart()
    assert await members(alice, room_id, at=alone) == {alice.user_id: "join"}


async def test_who_has_left_sees_the_members_of_then(server: Running) -> None:
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await bob.ok("POST", of(room_id, "leave"))
    await carol.join(room_id)
    later = (await alice.sync())["next_batch"]
    expected = {alice.user_id: "join", bob.user_id: "leave"}
    assert await members(bob, room_id) == expected
    assert await members(bob, room_id, at=later) == expected


async def test_nobody_sees_the_members_of_a_time_that_is_hidden(server: Running) -> None:
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    visible = {"history_visibility": "joined"}
    state = [{"type": "m.room.history_visibility", "content": visible}]
    room_id = await alice.create_room(preset="public_chat", initial_state=state)
    await carol.join(room_id)
    before = (await alice.sync())["next_batch"]
    await carol.ok("POST", of(room_id, "leave"))
    await bob.join(room_id)
    after = (await bob.sync())["next_batch"]
    await bob.refused("M_FORBIDDEN", "GET", of(room_id, "members"), query={"at": before})
    assert (await members(bob, room_id, at=after))[bob.user_id] == "join"
    assert (await members(alice, room_id, at=before))[carol.user_id] == "join"


async def test_wrong_questions_are_refused(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await alice.create_room()
    for query in ({"at": "x"}, {"membership": "here"}, {"not_membership": ""}):
        await alice.refused("M_INVALID_PARAM", "GET", of(room_id, "members"), query=query)
    await bob.refused("M_FORBIDDEN", "GET", of(room_id, "members"))
