"""Rooms that are created at the same moment are different rooms."""

import asyncio

from tests.serving import Running


async def test_equal_rooms_of_one_moment_have_ids_of_their_own(server: Running) -> None:
    alice = await server.person("alice")
    made = await asyncio.gather(*(alice.create_room(preset="private_chat") for _ in range(8)))
    assert len(set(made)) == 8
