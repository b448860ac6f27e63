"""Delayed events: sent in time, put off, dropped, and not lost (MSC4140)."""

import asyncio
from typing import Any
from urllib.parse import quote

from tests.serving import Person, Running

BASE = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"
DELAY = "org.matrix.msc4140.delay"


async def delay(person: Person, room: str, ms: int, text: str = "later", txn: str = "t") -> str:
    path = f"/rooms/{quote(room, safe='')}/send/m.room.message/{txn}"
    content = {"msgtype": "m.text", "body": text}
    return str((await person.ok("PUT", path, body=content, query={DELAY: ms}))["delay_id"])


async def delay_state(person: Person, room: str, ms: int, key: str, content: Any) -> str:
    path = f"/rooms/{quote(room, safe='')}/state/org.test/{quote(key, safe='')}"
    return str((await person.ok("PUT", path, body=content, query={DELAY: ms}))["delay_id"])


async def texts(person: Person, room: str) -> list[str]:
    path = f"/rooms/{quote(room, safe='')}/messages"
    page = await person.ok("GET", path, query={"dir": "b", "limit": 50})
    return [event["content"].get("body") for event in page["chunk"] if "state_key" not in event]


async def waiting(person: Person) -> list[Any]:
    return list((await person.ok("GET", BASE))["delayed_events"])


async def settled(person: Person, count: int) -> None:
    for _ in range(500):
        if len(await waiting(person)) == count:
            return
        await asyncio.sleep(0)
    raise AssertionError("the delayed events are not what they should be")


async def test_an_event_is_sent_when_its_time_has_come(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    delay_id = await delay(alice, room, 10_000)
    (listed,) = await waiting(alice)
    assert listed["delay_id"] == delay_id
    assert listed["room_id"] == room
    assert listed["type"] == "m.room.message"
    assert listed["delay"] == 10_000
    assert listed["content"]["body"] == "later"
    await server.clock.advance(9)
    await settled(alice, 1)
    assert await texts(alice, room) == []
    await server.clock.advance(2)
    await settled(alice, 0)
    assert await texts(alice, room) == ["later"]


async def test_it_can_be_put_off_dropped_and_sent_at_once(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    first = await delay(alice, room, 10_000, "first", "1")
    second = await delay(alice, room, 10_000, "second", "2")
    third = await delay(alice, room, 10_000, "third", "3")
    await server.clock.advance(5)
    await alice.ok("POST", f"{BASE}/{first}", body={"action": "restart"})
    await alice.ok("POST", f"{BASE}/{second}", body={"action": "cancel"})
    # Newer clients name the action in the path; who knows the id needs no token.
    reply = await server.request("POST", f"{BASE}/{third}/send", body={})
    assert reply.status == 200
    assert await texts(alice, room) == ["third"]
    await server.clock.advance(6)
    await settled(alice, 1)
    assert await texts(alice, room) == ["third"]
    await server.clock.advance(5)
    await settled(alice, 0)
    assert await texts(alice, room) == ["first", "third"]
    await alice.refused("M_NOT_FOUND", "POST", f"{BASE}/{first}", body={"action": "cancel"})
    await alice.refused("M_BAD_JSON", "POST", f"{BASE}/{first}", body={"action": "burn"})


async def test_a_restart_of_the_server_loses_none(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    await delay(alice, room, 10_000)
    await server.restart()
    await server.clock.advance(11)
    await settled(alice, 0)
    assert await texts(alice, room) == ["later"]


async def test_state_that_somebody_else_has_set_meanwhile_stands(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    levels = {"state_default": 0}
    room = await alice.create_room(preset="public_chat", power_level_content_override=levels)
    await bob.join(room)
    await delay_state(alice, room, 10_000, "mine", {"left": True})
    await delay_state(alice, room, 10_000, "shared", {"by": "alice"})
    await server.clock.advance(5)
    await bob.put_state(room, "org.test", {"by": "bob"}, "shared")
    await alice.put_state(room, "org.test", {"left": False}, "mine")
    await server.clock.advance(6)
    await settled(alice, 0)
    path = f"/rooms/{quote(room, safe='')}/state/org.test/"
    assert await alice.ok("GET", path + "shared") == {"by": "bob"}
    assert await alice.ok("GET", path + "mine") == {"left": True}


async def test_what_is_not_allowed_then_is_dropped(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    await delay(bob, room, 10_000)
    await alice.ok("POST", f"/rooms/{quote(room, safe='')}/kick", body={"user_id": bob.user_id})
    await server.clock.advance(11)
    await settled(bob, 0)
    assert await texts(alice, room) == []


async def test_bounds(server: Running) -> None:
    alice, eve = await server.person("alice"), await server.person("eve")
    room = await alice.create_room()
    path = f"/rooms/{quote(room, safe='')}/send/m.room.message/t"
    body: dict[str, Any] = {"body": "x"}
    reply = await alice.refused("M_UNKNOWN", "PUT", path, body=body, query={DELAY: 10**12})
    assert reply.body["org.matrix.msc4140.errcode"] == "M_MAX_DELAY_EXCEEDED"
    await alice.refused("M_INVALID_PARAM", "PUT", path, body=body, query={DELAY: -1})
    await eve.refused("M_FORBIDDEN", "PUT", path, body=body, query={DELAY: 1_000})
    for number in range(100):
        await delay(alice, room, 10_000, txn=f"{number}")
    reply = await alice.refused("M_UNKNOWN", "PUT", path, body=body, query={DELAY: 1_000})
    assert reply.body["org.matrix.msc4140.errcode"] == "M_MAX_DELAYED_EVENTS_EXCEEDED"
