"""A server may forget for its users the rooms that they leave, and says whether it does.

spec: client-server-api#mforget_forced_upon_leave-capability
"""

import json
from typing import Any

import pytest

from tests.rooms.paths import at
from tests.serving import Person, Running
from tests.streams.reading import invite, moved

LEFT = json.dumps({"room": {"include_leave": True}})


@pytest.fixture(params=[True, False])
def forgets(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def settings(forgets: bool) -> dict[str, Any]:
    return {"rooms": {"forget_on_leave": forgets}}


async def left(person: Person, since: str | None = "") -> set[str]:
    answer = await person.sync(since=since, filter=LEFT, remember=False)
    return set(answer.get("rooms", {}).get("leave", {}))


async def test_rooms_that_were_left_are_out_of_sight(server: Running, forgets: bool) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    capabilities = (await bob.ok("GET", "/capabilities"))["capabilities"]
    assert capabilities["m.forget_forced_upon_leave"] == {"enabled": forgets}
    rooms = [await alice.create_room(invite=[bob.user_id]) for _ in range(4)]
    for room in rooms[:3]:
        await bob.join(room)
        await alice.say(room, "hello")
    await bob.sync()
    await moved(bob, rooms[0], "leave")
    await moved(alice, rooms[1], "kick", bob)
    await moved(alice, rooms[2], "ban", bob)
    await moved(bob, rooms[3], "leave")
    # Who was there is told once that it is over.
    assert await left(bob, bob.since) == set(rooms)
    for restarted in (False, True):
        if restarted:
            await server.restart()
        assert await left(bob) == (set() if forgets else set(rooms))
        for room in rooms[:3]:
            reply = await bob.raw("GET", at(room, "messages"), query={"dir": "b"})
            assert reply.status == (403 if forgets else 200)
    await bob.ok("POST", at(rooms[0], "forget"), body={})

    await invite(alice, rooms[1], bob)
    await bob.join(rooms[1])
    page = await bob.ok("GET", at(rooms[1], "messages"), query={"dir": "b", "limit": 50})
    assert "hello" in json.dumps(page)
