"""What one server sends arrives in the rooms of another: once, in order, also after a crash.

spec: server-server-api#transactions
"""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import trustme

from tests.federation.house import House, heard, house, until
from tests.rooms.paths import at
from tests.serving import Person

pytestmark = pytest.mark.asyncio(loop_scope="module")

_count = itertools.count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with house(authority, tmp_path_factory.mktemp("receiving")) as house_made:
        await house_made.start("a.example", "b.example")
        yield house_made


async def pair(made: House) -> tuple[Person, Person, str]:
    """Alice of one server and Bob of the other, in a room of Alice's."""
    alice = await made.servers["a.example"].person(f"alice{next(_count)}")
    bob = await made.servers["b.example"].person(f"bob{next(_count)}")
    room = await alice.create_room(preset="public_chat")
    await bob.ok("POST", f"/join/{room}?via=a.example", body={})
    await alice.sync()
    await bob.sync()
    return alice, bob, room


async def bodies(person: Person, room: str) -> list[str]:
    """The texts of the room's messages, oldest first."""
    page = await person.ok("GET", at(room, "messages"), query={"dir": "b", "limit": 1000})
    found = [event["content"].get("body") for event in page["chunk"]]
    return [body for body in reversed(found) if body is not None]


async def test_messages_go_both_ways_and_come_down_live_sync(made: House) -> None:
    alice, bob, room = await pair(made)
    event_id = await alice.say(room, "hello")
    assert (await heard(bob, room, event_id))["content"]["body"] == "hello"
    answer = await bob.say(room, "hello yourself")
    assert (await heard(alice, room, answer))["sender"] == bob.user_id


async def test_a_burst_arrives_whole_and_in_order(made: House) -> None:
    alice, bob, room = await pair(made)
    wanted = [f"message {number}" for number in range(300)]
    for text in wanted:
        last = await alice.say(room, text)
    await heard(bob, room, last)
    assert await bodies(bob, room) == wanted


async def test_both_sides_at_once_end_with_the_same_events_and_state(made: House) -> None:
    alice, bob, room = await pair(made)

    async def talk(person: Person) -> None:
        for number in range(40):
            await person.say(room, f"{person.user_id} {number}")

    await asyncio.gather(
        talk(alice), talk(bob), alice.put_state(room, "m.room.name", {"name": "n"})
    )

    async def same() -> bool:
        ours, theirs = await bodies(alice, room), await bodies(bob, room)
        return len(ours) == len(theirs) == 80 and sorted(ours) == sorted(theirs)

    await until(same)
    states = []
    for person in (alice, bob):
        found = await person.ok("GET", at(room, "state"))
        states.append({(one["type"], one["state_key"]): one["event_id"] for one in found})
    assert states[0] == states[1]


async def test_redactions_typing_and_receipts_arrive(made: House) -> None:
    alice, bob, room = await pair(made)
    event_id = await alice.say(room, "regret")
    await heard(bob, room, event_id)
    await bob.ok("POST", at(room, "receipt", "m.read", event_id), body={})
    await bob.ok("PUT", at(room, "typing", bob.user_id), body={"typing": True})
    seen: dict[str, object] = {}

    async def ephemeral() -> bool:
        answer = await alice.sync(timeout=1_000)
        joined = answer.get("rooms", {}).get("join", {}).get(room, {})
        for event in joined.get("ephemeral", {}).get("events", ()):
            seen[event["type"]] = event["content"]
        return seen.keys() >= {"m.typing", "m.receipt"}

    await until(ephemeral)
    assert seen["m.typing"] == {"user_ids": [bob.user_id]}
    assert bob.user_id in seen["m.receipt"][event_id]["m.read"]  # type: ignore[index]
    redaction = await alice.ok("PUT", at(room, "redact", event_id, "txn"), body={})
    await heard(bob, room, redaction["event_id"])
    shown = await bob.ok("GET", at(room, "event", event_id))
    assert shown["content"] == {}


async def test_what_was_taken_survives_a_kill(made: House) -> None:
    alice, bob, room = await pair(made)
    server = made.servers["b.example"]
    wanted = [f"message {number}" for number in range(120)]
    for number, text in enumerate(wanted):
        await alice.say(room, text)
        if number == 60:
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)

    async def all_there() -> bool:
        return len(await bodies(bob, room)) >= len(wanted)

    await until(all_there)
    assert await bodies(bob, room) == wanted
