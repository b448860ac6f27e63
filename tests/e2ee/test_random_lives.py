"""After whatever people and servers have done, each client holds the truth.

People of two servers join, leave, are thrown out, log in and out on new devices, write to each
other's devices and take one-time keys, while the servers lose each other, restart and come back.
"""

from pathlib import Path

import pytest

from tests.e2ee.wanderers import Client, Life
from tests.federation.neighbours import neighbours

DEEDS = 60
LIVES = 1_000
OF_ONE_WORLD = 50
"""Lives that go by on the same servers, which everybody of them stays on."""


@pytest.mark.long
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("first", range(0, LIVES, OF_ONE_WORLD))
async def test_clients_end_with_the_truth(tmp_path: Path, first: int) -> None:
    async with neighbours(tmp_path, "a.example", "b.example") as world:
        for seed in range(first, first + OF_ONE_WORLD):
            await Life(world, seed, Client).live(DEEDS)
