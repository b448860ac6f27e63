"""After whatever people and servers have done, each client holds the truth.

People of two servers join, leave, are thrown out, log in and out on new devices, write to each
other's devices and take one-time keys, while the servers lose each other, restart and come back.
"""

from pathlib import Path

import pytest

from tests.e2ee.wanderers import Life
from tests.federation.neighbours import neighbours

DEEDS = 60
OF_ONE_WORLD = 50
"""Lives that go by on the same servers, which everybody of them stays on."""


async def lives(folder: Path, count: int) -> None:
    for first in range(0, count, OF_ONE_WORLD):
        home = folder / f"from{first}"
        home.mkdir()
        async with neighbours(home, "a.example", "b.example") as world:
            for seed in range(first, min(count, first + OF_ONE_WORLD)):
                await Life(world, seed).live(DEEDS)


@pytest.mark.long
@pytest.mark.timeout(1_800)
async def test_clients_end_with_the_truth(tmp_path: Path) -> None:
    await lives(tmp_path, 50)
