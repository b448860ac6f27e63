"""The server is killed (-9) among messages to devices: all that it took come, in order."""

import asyncio
from collections.abc import Callable
from functools import partial

from bench.client import V3, Client, insist
from tests.processes import Server

KILLS = 3
BETWEEN = 40  # messages between two kills


async def test_messages_to_devices_survive_kills(
    server: Server, client: Callable[[], Client]
) -> None:
    sender, waiting, off = client(), client(), client()
    for name, one in (("sender", sender), ("waiting", waiting), ("off", off)):
        await one.register(name)
    token = (await waiting.sync())["next_batch"]
    sent: list[int] = []
    received: list[int] = []
    stop = asyncio.Event()

    async def fetch(receiver: Client, since: str | None) -> tuple[list[int], str]:
        answer = await insist(partial(receiver.sync, since, timeout=200))
        events = answer.get("to_device", {}).get("events", [])
        return [event["content"]["number"] for event in events], answer["next_batch"]

    async def listen() -> None:
        nonlocal token
        while not stop.is_set() or received != sent:
            numbers, token = await fetch(waiting, token)
            received.extend(numbers)

    async def send(number: int) -> None:
        content = {"number": number}
        messages = {one.user_id: {"*": content} for one in (waiting, off)}
        target = f"{V3}/sendToDevice/m.test/{number}"
        await insist(partial(sender.call, "PUT", target, {"messages": messages}))
        sent.append(number)

    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.wait_for(listen(), 120))
        for kill in range(KILLS):
            for number in range(BETWEEN):
                await send(kill * BETWEEN + number)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        stop.set()
    assert received == sent
    numbers, since = await fetch(off, None)
    while len(numbers) < len(sent):
        more, since = await fetch(off, since)
        numbers += more
    assert numbers == sent
    assert (await fetch(off, since))[0] == (await fetch(waiting, token))[0] == []
