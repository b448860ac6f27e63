"""Who may read what was said when.

spec: client-server-api#room-history-visibility
"""

from typing import Any

import pytest

from tests.rooms.paths import at
from tests.serving import SERVER_NAME, Person, Running

# What was said while the reader was: a stranger, invited, joined, gone, back, banned.
STAGES = ("stranger", "invited", "joined", "gone", "back", "banned")
# By visibility and by what the reader is when asking: what can be read; None: nothing at all.
TABLE: dict[str, dict[str, set[str] | None]] = {
    "world_readable": {stage: set(STAGES[: n + 1]) for n, stage in enumerate(STAGES)},
    "shared": {
        "stranger": None,
        "invited": None,
        "joined": {"stranger", "invited", "joined"},
        "gone": {"stranger", "invited", "joined"},
        "back": {"stranger", "invited", "joined", "gone", "back"},
        "banned": {"stranger", "invited", "joined", "gone", "back"},
    },
    "invited": {
        "stranger": None,
        "invited": None,
        "joined": {"invited", "joined"},
        "gone": {"invited", "joined"},
        "back": {"invited", "joined", "back"},
        "banned": {"invited", "joined", "back"},
    },
    "joined": {
        "stranger": None,
        "invited": None,
        "joined": {"joined"},
        "gone": {"joined"},
        "back": {"joined", "back"},
        "banned": {"joined", "back"},
    },
}
OWN_EVENTS = {
    "world_readable": ["invite", "join", "leave", "join", "ban"],
    "shared": ["invite", "join", "leave", "join", "ban"],
    "invited": ["invite", "join", "leave", "join", "ban"],
    "joined": ["join", "leave", "join", "ban"],
}


async def step(stage: str, alice: Person, bob: Person, room: str) -> None:
    body = {"user_id": bob.user_id}
    match stage:
        case "invited":
            await alice.ok("POST", at(room, "invite"), body=body)
        case "joined" | "back":
            await bob.join(room)
        case "gone":
            await bob.ok("POST", at(room, "leave"), body={})
        case "banned":
            await alice.ok("POST", at(room, "ban"), body=body)


async def pages(person: Person, room: str, direction: str, **query: Any) -> list[dict[str, Any]]:
    """All events that paging in one direction gives, oldest first."""
    events: list[dict[str, Any]] = []
    token: str | None = None
    while True:
        given = {"dir": direction, "limit": 3, **query, **({"from": token} if token else {})}
        page = await person.ok("GET", at(room, "messages"), query=given)
        events += page["chunk"]
        token = page.get("end")
        if token is None:
            return events if direction == "f" else events[::-1]


def texts(events: list[dict[str, Any]]) -> list[str]:
    return [event["content"]["body"] for event in events if event["type"] == "m.room.message"]


@pytest.mark.parametrize("visibility", TABLE)
async def test_the_table(server: Running, visibility: str) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    content = {"history_visibility": visibility}
    room = await alice.create_room(
        preset="public_chat",
        initial_state=[{"type": "m.room.history_visibility", "content": content}],
    )
    said: dict[str, str] = {}
    for stage in STAGES:
        await step(stage, alice, bob, room)
        said[stage] = await alice.say(room, stage)
        readable = TABLE[visibility][stage]
        if readable is None:
            for path in ("messages", "state", "members", "state/m.room.name", "joined_members"):
                await bob.refused("M_FORBIDDEN", "GET", at(room) + "/" + path, query={"dir": "b"})
        else:
            expected = [name for name in STAGES if name in readable]
            for direction in ("f", "b"):
                assert texts(await pages(bob, room, direction)) == expected, (stage, direction)
        for name, event_id in said.items():
            for part in ("event", "context"):
                reply = await bob.raw("GET", at(room, part, event_id))
                seen = readable is not None and name in readable
                hidden = 404 if part == "event" or readable is not None else 403
                assert reply.status == (200 if seen else hidden), (stage, name, part)
    await server.restart()
    events = await pages(bob, room, "f")
    assert texts(events) == [name for name in STAGES if name in (TABLE[visibility]["banned"] or ())]
    own = [
        event["content"]["membership"] for event in events if event.get("state_key") == bob.user_id
    ]
    assert own == OWN_EVENTS[visibility]


async def test_a_change_of_visibility_is_seen_from_the_more_open_side(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    for visibility in ("joined", "invited", "shared", "joined"):
        await alice.say(room, f"before {visibility}")
        content = {"history_visibility": visibility}
        await alice.put_state(room, "m.room.history_visibility", content)
    await alice.say(room, "last")
    await bob.join(room)
    seen = await pages(bob, room, "f")
    assert texts(seen) == ["before joined", "before joined"]
    changes = [
        event["content"]["history_visibility"]
        for event in seen
        if event["type"] == "m.room.history_visibility"
    ]
    # The first is the preset's. That to `joined` is seen as it stood under `shared`, that to
    # `shared` as it stands under it; that to `invited` would need an invitation.
    assert changes == ["shared", "joined", "shared", "joined"]


async def test_a_visibility_that_nobody_knows_is_shared(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await alice.put_state(room, "m.room.history_visibility", {"history_visibility": "secret"})
    await alice.say(room, "hello")
    await bob.refused("M_FORBIDDEN", "GET", at(room, "messages"), query={"dir": "b"})
    await bob.join(room)
    assert texts(await pages(bob, room, "b")) == ["hello"]


async def test_who_has_left_sees_the_room_as_it_was_then(server: Running) -> None:
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    room = await alice.create_room(preset="public_chat", name="Old")
    await bob.join(room)
    await carol.join(room)
    await bob.ok("POST", at(room, "leave"), body={})
    await alice.put_state(room, "m.room.name", {"name": "New"})
    await alice.put_state(room, "m.room.topic", {"topic": "New"})
    await carol.ok("POST", at(room, "leave"), body={})
    for restarted in (False, True):
        if restarted:
            await server.restart()
        assert await bob.ok("GET", at(room, "state", "m.room.name")) == {"name": "Old"}
        await bob.refused("M_NOT_FOUND", "GET", at(room, "state", "m.room.topic"))
        state = {
            (event["type"], event["state_key"]): event["content"]
            for event in await bob.ok("GET", at(room, "state"))
        }
        assert state["m.room.name", ""] == {"name": "Old"}
        assert state["m.room.member", bob.user_id]["membership"] == "leave"
        assert state["m.room.member", carol.user_id]["membership"] == "join"
        assert ("m.room.topic", "") not in state
        members = (await bob.ok("GET", at(room, "members")))["chunk"]
        stands = {event["state_key"]: event["content"]["membership"] for event in members}
        assert stands == {alice.user_id: "join", bob.user_id: "leave", carol.user_id: "join"}
        await bob.refused("M_FORBIDDEN", "GET", at(room, "joined_members"))
        await bob.refused("M_FORBIDDEN", "GET", at(room, "aliases"))


async def test_strangers_cannot_tell_a_secret_room_from_none(server: Running) -> None:
    alice, mallory = await server.person("alice"), await server.person("mallory")
    secret = await alice.create_room()
    event_id = await alice.say(secret, "psst")
    nowhere = f"!nowhere:{SERVER_NAME}"
    paths = ("messages", "state", "state/m.room.name", "members", "joined_members", "aliases")

    async def answers(room: str, event: str) -> list[tuple[int, Any]]:
        replies = [await mallory.raw("GET", at(room) + "/" + p, query={"dir": "b"}) for p in paths]
        replies += [await mallory.raw("GET", at(room, p, event)) for p in ("event", "context")]
        path = at(room, "redact", event, "1")
        replies.append(await mallory.raw("PUT", path, body={}))
        replies.append(await mallory.raw("PUT", at(room, "send", "m.x", "1"), body={}))
        replies.append(await mallory.raw("PUT", at(room, "state", "m.x"), body={}))
        return [(reply.status, reply.errcode) for reply in replies]

    assert await answers(secret, event_id) == await answers(nowhere, "$nothing")
    assert {status for status, _ in await answers(secret, event_id)} == {403, 404}


async def test_events_of_another_room_are_not_found(server: Running) -> None:
    alice = await server.person("alice")
    here, there = await alice.create_room(), await alice.create_room()
    event_id = await alice.say(there, "x")
    for part in ("event", "context"):
        await alice.refused("M_NOT_FOUND", "GET", at(here, part, event_id))


async def test_the_ignored_are_not_heard(server: Running) -> None:
    """But what they change of the room's state is. spec: client-server-api#ignoring-users"""
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    before = await alice.say(room, "one")
    noise = await bob.say(room, "noise")
    await alice.say(room, "two")
    path = f"/user/{alice.user_id}/account_data/m.ignored_user_list"
    await alice.ok("PUT", path, body={"ignored_users": {bob.user_id: {}}})
    for direction in ("f", "b"):
        events = await pages(alice, room, direction)
        assert texts(events) == ["one", "two"]
        assert any(event.get("state_key") == bob.user_id for event in events)
    await alice.refused("M_NOT_FOUND", "GET", at(room, "event", noise))
    context = await alice.ok("GET", at(room, "context", before))
    assert texts(context["events_after"]) == ["two"]
    assert texts(await pages(bob, room, "f")) == ["one", "noise", "two"]
