"""Users of one server join rooms of another.

spec: server-server-api#joining-rooms
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import trustme

from tests.federation.house import House, house
from tests.rooms.paths import at
from tests.serving import Person

pytestmark = pytest.mark.asyncio(loop_scope="module")

VERSIONS = [str(number) for number in range(1, 13)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with house(authority, tmp_path_factory.mktemp("joins")) as house_made:
        await house_made.start("a.example", "b.example")
        yield house_made


_count = iter(range(1_000_000))


async def person(made: House, server: str) -> Person:
    return await made.servers[server].person(f"user{next(_count)}")


async def join(person: Person, room: str, *via: str) -> None:
    path = f"/join/{room}?" + "&".join(f"via={one}" for one in via)
    await person.ok("POST", path, body={})


async def members(person: Person, room: str) -> dict[str, str]:
    found = await person.ok("GET", at(room, "members"))
    return {one["state_key"]: one["content"]["membership"] for one in found["chunk"]}


@pytest.mark.parametrize("version", VERSIONS)
async def test_rooms_of_every_version_are_joined(made: House, version: str) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    room = await alice.create_room(preset="public_chat", room_version=version, name="Here")
    await join(bob, room, "a.example")
    assert await members(bob, room) == {alice.user_id: "join", bob.user_id: "join"}
    assert await members(alice, room) == {alice.user_id: "join", bob.user_id: "join"}
    name = await bob.ok("GET", at(room, "state", "m.room.name"))
    assert name == {"name": "Here"}
    synced = (await bob.sync())["rooms"]["join"][room]
    keys = {event["type"] for event in synced["state"]["events"]}
    assert {"m.room.create", "m.room.name", "m.room.member", "m.room.join_rules"} <= keys
    assert [event["sender"] for event in synced["timeline"]["events"]] == [bob.user_id]
    assert synced["summary"]["m.joined_member_count"] == 2
    await bob.say(room, "I am here")
