"""SIGTERM under load: the server ends within ten seconds, and every answer it gave is true."""

import asyncio
import random
import signal
import time
from collections.abc import Callable

import psutil

from bench.client import Client
from tests.crash.crowd import Crowd
from tests.processes import Server

MOST_SECONDS = 10.0


async def test_a_server_under_load_ends_in_order(
    server: Server, client: Callable[[], Client]
) -> None:
    crowd = Crowd(client, random.Random(7))
    await crowd.gather(12, 3, 4)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(crowd.work(stop))
        for _ in range(2):
            await crowd.get_done(200)
            began = time.monotonic()
            assert await asyncio.to_thread(server.stop) == 0
            assert time.monotonic() - began < MOST_SECONDS
            assert "Traceback" not in server.log_end(1_000)
            await asyncio.to_thread(server.start)
        await crowd.get_done(50)
        stop.set()
    await crowd.verify()


async def test_long_polls_are_answered_with_their_own_token(
    server: Server, client: Callable[[], Client]
) -> None:
    people = [client() for _ in range(5)]
    for number, one in enumerate(people):
        await one.register(f"user{number}")
    tokens = [(await one.sync())["next_batch"] for one in people]
    polls = [
        asyncio.create_task(one.sync(token, timeout=60_000))
        for one, token in zip(people, tokens, strict=True)
    ]
    # Their requests were read before this one's, on connections of their own.
    talker = client()
    await talker.register("talker")
    process = psutil.Process(server.pid)
    process.send_signal(signal.SIGTERM)
    answers = await asyncio.wait_for(asyncio.gather(*polls), MOST_SECONDS)
    assert [answer["next_batch"] for answer in answers] == tokens
    assert all(not answer.get("rooms") for answer in answers)
    await asyncio.to_thread(server.stop)
