"""Whatever people and servers have done, everybody reads in the end what they should.

The people of `test_random_lives.py`, with programs that encrypt what is said in their rooms.
"""

import contextlib
from pathlib import Path

import pytest

from tests.e2ee.confidants import SecretLife
from tests.federation.neighbours import neighbours

DEEDS = 60


async def lives(folder: Path, count: int) -> None:
    said = due = read = 0
    async with neighbours(folder, "a.example", "b.example") as world:
        for seed in range(count):
            life = SecretLife(world, seed)
            async with contextlib.aclosing(life):
                await life.live(DEEDS)
            said += len(life.said)
            due += life.due
            read += sum(len(client.read) for client in life.clients)
    assert min(said, due / 2, read / 2) >= 5 * count, "hardly anything was said"


async def test_a_life_of_which_all_can_be_read(tmp_path: Path) -> None:
    await lives(tmp_path, 1)


@pytest.mark.long
@pytest.mark.timeout(1_800)
async def test_twenty_of_them(tmp_path: Path) -> None:
    await lives(tmp_path, 20)
