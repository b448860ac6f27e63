"""A new name reaches every room of its user, also when the server is killed on the way."""

import asyncio
from collections.abc import Callable
from functools import partial

from bench.client import Client, insist, segment
from tests.processes import Server

V3 = "/_matrix/client/v3"
ROOMS = 60


async def names(client: Client, rooms: list[str]) -> list[object]:
    """What the client's user is called in each of the rooms."""
    found = []
    for room_id in rooms:
        path = f"{V3}/rooms/{segment(room_id)}/state/m.room.member/{segment(client.user_id)}"
        content = await insist(partial(client.call, "GET", path))
        found.append(content.get("displayname"))
    return found


async def test_all_rooms_follow_across_a_kill(server: Server, client: Callable[[], Client]) -> None:
    alice = client()
    await alice.register("alice")
    rooms = [await alice.create_room() for _ in range(ROOMS)]
    path = f"{V3}/profile/{segment(alice.user_id)}/displayname"
    await alice.call("PUT", path, {"displayname": "Alice"})
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    async with asyncio.timeout(60):
        while set(await names(alice, rooms)) != {"Alice"}:
            pass
