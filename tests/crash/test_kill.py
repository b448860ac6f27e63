"""The server is killed (-9) at random moments under load: no answer of it may become untrue."""

import asyncio
import os
import random
from collections.abc import Callable
from functools import partial

import pytest

from bench.client import Client, insist
from tests.crash.conftest import Rows
from tests.crash.crowd import Crowd
from tests.processes import OurServer, Server


def _check(server: Server) -> None:
    """What is derived from events agrees with them."""
    if isinstance(server, OurServer):
        result = server.check()
        assert result.returncode == 0, result.stdout + result.stderr


async def _kill_under_load(server: Server, make: Callable[[], Client], kills: int) -> None:
    seed = int(os.environ.get("CRASH_SEED") or random.randrange(2**32))
    print(f"CRASH_SEED={seed}")
    dice = random.Random(seed)
    crowd = Crowd(make, dice)
    await crowd.gather()
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(crowd.work(stop))
        for _ in range(kills):
            await crowd.get_done(dice.randint(100, 600))
            await asyncio.sleep(dice.random() / 50)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        await crowd.get_done(100)
        stop.set()
    await crowd.verify()
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(_check, server)


async def test_answers_survive_three_kills(server: Server, client: Callable[[], Client]) -> None:
    await _kill_under_load(server, client, 3)


@pytest.mark.long
async def test_answers_survive_thirty_kills(server: Server, client: Callable[[], Client]) -> None:
    await _kill_under_load(server, client, 30)


@pytest.mark.skipif(
    os.environ.get("HOMESERVER_TEST_SERVER") == "synapse", reason="looks into our tables"
)
async def test_positions_have_no_gaps_and_ephemera_do_not_move_them(
    server: Server, client: Callable[[], Client], look: Callable[[str], Rows]
) -> None:
    nina = client()
    await nina.register("nina")
    room_id = await nina.create_room(preset="public_chat")
    await nina.say(room_id, "before")
    ((before,),) = look("SELECT pos FROM stream")

    for number in range(40):
        await insist(partial(nina.say, room_id, "again", nina.transaction()))
        await insist(partial(nina.typing, room_id, number % 2 == 0))
        if number % 10 == 5:
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
    await asyncio.to_thread(server.stop)

    ((after,),) = look("SELECT pos FROM stream")
    assert after == before + 40
    positions = look(f"SELECT pos FROM events WHERE pos > {before} ORDER BY pos")
    assert [position for (position,) in positions] == list(range(before + 1, after + 1))
