"""What many do at once: parked polls by the thousand, storms of logins, 1,000 rooms, attacks.

Each has a server of its own, since memory is a figure here and passwords cost what they cost in
production where they are the matter. As in `scenarios.py`, an answer that is wrong is no figure.
"""

import asyncio
import resource
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import msgspec

from bench.client import V3, Client, Refused
from bench.meter import Measurement, in_parallel, timed
from bench.scenarios import Bench, require, texts
from bench.services import listening

MEGABYTE = 1024 * 1024
SETTLE_SECONDS = 2.0


@dataclass
class Outcome:
    """What a crowd showed: `value` in `unit`; `resident` is memory in MB at its highest."""

    value: float
    unit: str
    cost: Measurement
    resident: float


async def parked(bench: Bench) -> Outcome:
    """CPU of waking some of many parked long polls, each; they park only once.

    The memory is that of all parked polls, with everything that their users made the server keep.
    """
    sizes = bench.sizes
    _allow_files(sizes.parked + 1_000)
    listeners = await bench.users(sizes.parked, width=16)
    woken = listeners[: sizes.woken]
    room_id = await bench.room(woken[0], woken[1:])
    tokens: dict[str, str] = {}

    async def begin(listener: Client) -> None:
        tokens[listener.user_id] = (await listener.sync())["next_batch"]

    await in_parallel(16, [partial(begin, listener) for listener in listeners])
    polls = {
        listener.user_id: asyncio.create_task(
            listener.sync(tokens[listener.user_id], timeout=120_000)
        )
        for listener in listeners
    }
    await _until_parked(bench, sizes.parked)
    memory = bench.server.resident() / MEGABYTE
    sender = bench.client()
    await sender.register(bench.name())
    await sender.join(room_id)
    joined = [polls[listener.user_id] for listener in woken]
    tokens |= {
        listener.user_id: reply["next_batch"]
        for listener, reply in zip(woken, await asyncio.gather(*joined), strict=True)
    }
    again = [
        asyncio.create_task(listener.sync(tokens[listener.user_id], timeout=120_000))
        for listener in woken
    ]
    await _until_parked(bench, sizes.parked)
    async with bench.meter.measure() as cost:
        event_id = await sender.say(room_id, "wake up")
        replies = await asyncio.gather(*again)
        cost.operations = len(replies)
    for reply in replies:
        events = reply["rooms"]["join"][room_id]["timeline"]["events"]
        require(texts(events) == [event_id], "a woken poll does not hold the message, once")
    others = [polls[listener.user_id] for listener in listeners[sizes.woken :]]
    require(not any(poll.done() for poll in others), "a poll was woken that has no news")
    for poll in others:
        poll.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    return Outcome(cost.cpu_ms, "ms", cost, memory)


async def login_storm(bench: Bench) -> Outcome:
    """How much longer 8 senders wait (p99) while 16 clients log in as fast as they can."""
    senders = await bench.users(8)
    room_id = await bench.room(senders[0], senders[1:])
    name = senders[0].user_id[1:].split(":")[0]
    logins = 0

    async def say(sender: Client, cost: Measurement) -> None:
        for number in range(bench.sizes.storm_sends):
            await timed(cost, sender.say(room_id, f"message {number}"))
            await asyncio.sleep(0.02)

    async def log_in() -> None:
        nonlocal logins
        while True:
            client = bench.client()
            await client.login(name)
            client.close()
            logins += 1

    calm, storm = Measurement(), Measurement()
    await asyncio.gather(*(say(sender, Measurement()) for sender in senders))
    await asyncio.gather(*(say(sender, calm) for sender in senders))
    crowd = [asyncio.create_task(log_in()) for _ in range(16)]
    await asyncio.sleep(1)
    async with bench.meter.measure() as cost:
        await asyncio.gather(*(say(sender, storm) for sender in senders))
        cost.operations = len(storm.waits)
        done = logins
    for client in crowd:
        client.cancel()
    for result in await asyncio.gather(*crowd, return_exceptions=True):
        require(isinstance(result, asyncio.CancelledError), f"a login failed: {result}")
    require(done > 0, "nobody could log in")
    cost.waits = storm.waits
    ratio = storm.wait_ms(0.99) / calm.wait_ms(0.99)
    return Outcome(ratio, "x", cost, bench.server.resident() / MEGABYTE)


async def initial_1000(bench: Bench) -> Outcome:
    """CPU seconds of a first sync of an account in 1,000 rooms, one device after the other."""
    owner, other = await bench.users(2)
    name = other.user_id[1:].split(":")[0]
    last: dict[str, str] = {}

    async def furnish() -> None:
        room_id = await bench.room(owner, [other])
        last[room_id] = await owner.say(room_id, "hello")

    await in_parallel(8, [furnish for _ in range(bench.sizes.many_rooms)])
    devices = [bench.client() for _ in range(3)]
    for device in devices:
        await device.login(name)
    async with bench.meter.measure() as cost:
        replies = [await timed(cost, device.sync()) for device in devices]
        cost.operations = len(replies)
    for reply in replies:
        joined = reply["rooms"]["join"]
        require(joined.keys() == last.keys(), "an initial sync misses rooms")
        for room_id, event_id in last.items():
            got = texts(joined[room_id]["timeline"]["events"])
            require(got[-1:] == [event_id], "an initial sync lacks a room's last message")
    return Outcome(cost.cpu_ms / 1000, "s", cost, bench.server.resident() / MEGABYTE)


async def hostile(bench: Bench) -> Outcome:
    """How much longer 8 senders wait (p99) under the worst of some attacks; rate limits are on."""
    _allow_files(6_000)
    senders = await bench.users(8)
    room_id = await bench.room(senders[0], senders[1:])
    (attacker,) = await bench.users(1)

    async def say(sender: Client, cost: Measurement) -> None:
        for number in range(bench.sizes.storm_sends):
            await timed(cost, sender.say(room_id, f"message {number}"))
            await asyncio.sleep(0.1)

    async def measured(cost: Measurement) -> float:
        await asyncio.gather(*(say(sender, cost) for sender in senders))
        return cost.wait_ms(0.99)

    await measured(Measurement())
    calm = await measured(Measurement())
    worst, ratio = Measurement(), 0.0
    for attack in (_slow_bodies, _idle_connections, _bad_json, _many_rooms, _wild_filters):
        task = asyncio.create_task(attack(bench, attacker))
        await asyncio.sleep(1)
        async with bench.meter.measure() as cost:
            found = await measured(cost) / calm
            cost.operations = len(cost.waits)
        require(not task.done(), f"{attack.__name__[1:]} has ended")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if found > ratio:
            worst, ratio = cost, found
    return Outcome(ratio, "x", worst, bench.server.resident() / MEGABYTE)


async def _connections(bench: Bench, count: int, first: bytes) -> None:
    """Hold connections that send `first` and then nothing; they are opened again when closed."""

    async def hold() -> None:
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", bench.server.port)
            writer.write(first)
            await reader.read()
            writer.close()

    await asyncio.gather(*(hold() for _ in range(count)))


async def _slow_bodies(bench: Bench, attacker: Client) -> None:
    head = f"POST {V3}/login HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n{{"
    await _connections(bench, 500, head.encode())


async def _idle_connections(bench: Bench, attacker: Client) -> None:
    await _connections(bench, 5_000, b"")


async def _repeated(attempt: Callable[[], Awaitable[object]]) -> None:
    """Try again and again, as fast as it is answered or refused."""
    while True:
        try:
            await attempt()
        except Refused:
            await asyncio.sleep(0.01)


async def _bad_json(bench: Bench, attacker: Client) -> None:
    deep: object = "x"
    for _ in range(500):
        deep = [deep]
    body = {"name": deep, "initial_state": [{}] * 20_000}
    await _repeated(lambda: attacker.create_room(**body))


async def _many_rooms(bench: Bench, attacker: Client) -> None:
    create = partial(attacker.create_room, preset="public_chat", name="flood")
    await asyncio.gather(*(_repeated(create) for _ in range(32)))


async def _wild_filters(bench: Bench, attacker: Client) -> None:
    wild = ["*".join("abcdefgh" * 5) + str(number) for number in range(200)]
    source = {"room": {"timeline": {"not_types": wild, "limit": 1_000}}}
    text = msgspec.json.encode(source).decode()
    await _repeated(lambda: attacker.sync(sync_filter=text))


async def _until_parked(bench: Bench, count: int) -> None:
    """Wait until the server has nothing to do any more: the polls are parked."""
    limit = time.monotonic() + 120
    quiet_since, before = time.monotonic(), bench.meter.now()
    while time.monotonic() - quiet_since < SETTLE_SECONDS:
        await asyncio.sleep(0.2)
        now = bench.meter.now()
        if now - before > 0.02:
            quiet_since = time.monotonic()
        before = now
        require(time.monotonic() < limit, f"{count} polls are not parked in two minutes")


def _allow_files(count: int) -> None:
    """As many open files as there will be connections, and some more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count + 500:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count + 500, hard), hard))


async def catch_up(bench: Bench) -> Outcome:
    """CPU of telling an application service what happened while it was down, an event.

    Each transaction is acknowledged at once. Events a second are counted from the first one on.
    """
    senders = await bench.users(16)
    async with listening(bench.server.services[0]) as service:
        room_id = await bench.room(senders[0], senders[1:])
        bot = bench.client()
        await service.arrive(bot, room_id)
        first = await senders[0].say(room_id, "warm")
        await service.until(lambda: first in service.came)
        service.is_down = True

        async def talk(sender: Client) -> list[str]:
            return [
                await sender.say(room_id, f"message {number}")
                for number in range(bench.sizes.missed // len(senders))
            ]

        sent = {event_id for own in await asyncio.gather(*map(talk, senders)) for event_id in own}
        require(not sent & set(service.came), "a service that is down took an event")
        service.came.clear()
        async with bench.meter.measure() as cost:
            service.is_down = False
            await service.until(lambda: len(service.came) >= len(sent))
        cost.operations = len(sent)
        cost.seconds = service.last - service.began
        messages = [event_id for event_id in service.came if event_id in sent]
        order = texts((await senders[0].history(room_id))[::-1])
        require(len(messages) == len(set(messages)), "a service was told twice")
        require(messages == [id_ for id_ in order if id_ in sent], "events are out of order")
    return Outcome(cost.cpu_ms, "ms", cost, bench.server.resident() / MEGABYTE)


@dataclass(frozen=True)
class Crowd:
    """A crowd, whether passwords are hashed cheaply meanwhile, whether rate limits are on.

    `service`: whether the server knows an application service.
    """

    run: Callable[[Bench], Awaitable[Outcome]]
    cheap_passwords: bool = True
    limits: bool = False
    service: bool = False


CROWDS: dict[str, Crowd] = {
    "parked": Crowd(parked),
    "login-storm": Crowd(login_storm, cheap_passwords=False),
    "initial-1000": Crowd(initial_1000),
    "hostile": Crowd(hostile, limits=True),
    "service-catch-up": Crowd(catch_up, service=True),
}
