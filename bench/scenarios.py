"""The work that both servers are given, and the proof that they did it.

A scenario prepares its own users and rooms, warms up, measures, and then verifies what the server
keeps and delivered: an answer that is wrong costs nothing to give, so an unverified figure is none.
`Wrong` is raised then. Sizes are the same for every server; `QUICK` is for trying things out.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from itertools import count

from bench.client import Client, Json
from bench.meter import Measurement, Meter, in_parallel, timed
from tests.processes import Server


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    registrations: int = 60
    rooms: int = 40
    members: int = 20
    sends_alone: int = 200
    senders: int = 64
    sends_each: int = 15
    listeners: int = 50
    deliveries: int = 20
    idle_clients: int = 16
    idle_syncs: int = 50
    idle_rooms: int = 10
    rooms_of_account: int = 100
    initial_syncs: int = 10
    joins: int = 100
    history: int = 500
    pagers: int = 8
    rounds: int = 3
    parked: int = 10_000
    woken: int = 1_000
    storm_sends: int = 100
    many_rooms: int = 1_000
    uploads: int = 60
    keyed: int = 500
    queries: int = 50
    claims: int = 10
    inboxes: int = 100
    inbox: int = 100
    shares: int = 500
    children: int = 50
    walks: int = 25
    searched: int = 1_000
    files: int = 300
    pictures: int = 20
    audience: int = 2_000
    notified: int = 50
    deep: int = 5_000
    dives: int = 100
    missed: int = 4_000


FULL = Sizes()
QUICK = Sizes(
    registrations=12,
    rooms=8,
    sends_alone=40,
    sends_each=3,
    deliveries=4,
    idle_syncs=10,
    rooms_of_account=20,
    initial_syncs=4,
    joins=20,
    history=100,
    pagers=2,
    rounds=2,
    parked=400,
    woken=100,
    storm_sends=20,
    many_rooms=50,
    uploads=12,
    keyed=40,
    queries=3,
    claims=3,
    inboxes=10,
    inbox=20,
    shares=10,
    children=8,
    walks=3,
    searched=100,
    files=20,
    pictures=4,
    audience=40,
    notified=5,
    deep=500,
    dives=20,
    missed=480,
)
PROFILED = Sizes(
    registrations=1000,
    rooms=500,
    sends_alone=3000,
    sends_each=150,
    deliveries=400,
    idle_syncs=1000,
    initial_syncs=50,
    joins=1000,
    rounds=20,
    uploads=600,
    queries=100,
    walks=300,
    files=2000,
    notified=500,
    missed=40_000,
)


class Wrong(Exception):
    """The server did not do what was asked of it."""


def require(condition: bool, what: str) -> None:
    """Raise Wrong with the sentence unless the condition holds."""
    if not condition:
        raise Wrong(what)


class Bench:
    """A running server, the meter on it, and accounts on demand."""

    def __init__(self, server: Server, meter: Meter, sizes: Sizes) -> None:
        self.server = server
        self.meter = meter
        self.sizes = sizes
        self._numbers = count(1)
        self._clients: list[Client] = []

    def client(self) -> Client:
        """A client without an account."""
        client = Client("127.0.0.1", self.server.port)
        self._clients.append(client)
        return client

    def name(self) -> str:
        """A localpart that was not used before."""
        return f"user{next(self._numbers)}"

    async def users(self, number: int, width: int = 4) -> list[Client]:
        """New accounts, each with one device, made `width` at once."""
        clients = [self.client() for _ in range(number)]
        await in_parallel(width, [partial(client.register, self.name()) for client in clients])
        return clients

    async def room(self, owner: Client, members: list[Client]) -> str:
        """A public room with these joined members."""
        room_id = await owner.create_room(preset="public_chat", name="Room", room_version="12")
        await in_parallel(4, [partial(member.join, room_id) for member in members])
        return room_id

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            client.close()


def texts(events: list[Json]) -> list[str]:
    """The event ids of the messages among the events, in their order."""
    return [event["event_id"] for event in events if event["type"] == "m.room.message"]


async def registration(bench: Bench) -> Measurement:
    """Accounts made through /register, 4 clients at once; passwords hashed cheaply."""
    await bench.users(4)
    clients = [bench.client() for _ in range(bench.sizes.registrations)]
    async with bench.meter.measure() as cost:
        jobs = [partial(_timed, cost, partial(c.register, bench.name())) for c in clients]
        await in_parallel(4, jobs)
        cost.operations = len(clients)
    for client in clients:
        whoami = await client.call("GET", "/_matrix/client/v3/account/whoami")
        require(whoami["user_id"] == client.user_id, "a new account's token is another's")
    require(len({c.user_id for c in clients}) == len(clients), "two accounts have one name")
    return cost


async def room_creation(bench: Bench) -> Measurement:
    """Private rooms with a name, 4 clients at once."""
    owners = await bench.users(4)
    create = {"preset": "private_chat", "name": "A room", "room_version": "12"}
    await in_parallel(4, [partial(owner.create_room, **create) for owner in owners])
    async with bench.meter.measure() as cost:
        jobs = [
            partial(_timed, cost, partial(owners[number % 4].create_room, **create))
            for number in range(bench.sizes.rooms)
        ]
        made = await in_parallel(4, jobs)
        cost.operations = len(made)
    kept: set[str] = set()
    for owner in owners:
        kept.update((await owner.call("GET", "/_matrix/client/v3/joined_rooms"))["joined_rooms"])
    require(set(made) <= kept and len(set(made)) == len(made), "a created room is missing")
    return cost


async def sends_alone(bench: Bench) -> Measurement:
    """One client sends messages one after the other into a room of 20 members."""
    owner, *members = await bench.users(bench.sizes.members)
    room_id = await bench.room(owner, members)
    for number in range(20):
        await owner.say(room_id, f"warm {number}")
    async with bench.meter.measure() as cost:
        sent = [
            await timed(cost, owner.say(room_id, f"message {number}"))
            for number in range(bench.sizes.sends_alone)
        ]
        cost.operations = len(sent)
    found = texts(await members[0].history(room_id))[::-1][20:]
    require(found == sent, "the room's history is not what was sent, once and in order")
    return cost


async def sends_together(bench: Bench) -> Measurement:
    """64 clients send into one room at once, each waiting for its answer before it goes on."""
    senders = await bench.users(bench.sizes.senders)
    room_id = await bench.room(senders[0], senders[1:])
    await asyncio.gather(*(sender.say(room_id, "warm") for sender in senders))

    async def talk(sender: Client, cost: Measurement) -> list[str]:
        return [
            await timed(cost, sender.say(room_id, f"message {number}"))
            for number in range(bench.sizes.sends_each)
        ]

    async with bench.meter.measure() as cost:
        sent = await asyncio.gather(*(talk(sender, cost) for sender in senders))
        cost.operations = sum(map(len, sent))
    found = texts(await senders[-1].history(room_id))[::-1][len(senders) :]
    require(len(found) == cost.operations == len(set(found)), "messages are missing or doubled")
    place = {event_id: number for number, event_id in enumerate(found)}
    for own in sent:
        places = [place.get(event_id, -1) for event_id in own]
        require(-1 not in places, "an answered message is missing")
        require(places == sorted(places), "a sender's messages are out of order")
    return cost


async def fan_out(bench: Bench) -> Measurement:
    """Messages delivered to 50 parked long polls; an operation is one delivery, and parking again.

    The cost of the sends themselves is included. A message is sent when all have the one before.
    """
    sender, *listeners = await bench.users(1 + bench.sizes.listeners)
    room_id = await bench.room(sender, listeners)
    tokens = [(await listener.sync())["next_batch"] for listener in listeners]
    received: list[list[str]] = [[] for _ in listeners]
    sent_at: dict[str, float] = {}
    arrivals: list[float] = []
    news = asyncio.Event()

    async def listen(number: int) -> None:
        while True:
            reply = await listeners[number].sync(tokens[number], timeout=30_000)
            tokens[number] = reply["next_batch"]
            timeline = reply.get("rooms", {}).get("join", {}).get(room_id, {}).get("timeline", {})
            require(not timeline.get("limited"), "a live sync was limited")
            for event in timeline.get("events", []):
                if event["type"] == "m.room.message":
                    received[number].append(event["event_id"])
                    arrivals.append(time.perf_counter() - sent_at[event["content"]["body"]])
            news.set()

    async def deliver(text: str) -> str:
        sent_at[text] = time.perf_counter()
        event_id = await sender.say(room_id, text)
        while any(not got or got[-1] != event_id for got in received):
            news.clear()
            await asyncio.wait_for(news.wait(), 60)
        await asyncio.sleep(0.05)
        return event_id

    async with asyncio.TaskGroup() as group:
        polls = [group.create_task(listen(number)) for number in range(len(listeners))]
        await asyncio.sleep(0.5)
        sent = [await deliver(f"warm {number}") for number in range(3)]
        arrivals.clear()
        async with bench.meter.measure() as cost:
            sent += [await deliver(f"message {number}") for number in range(bench.sizes.deliveries)]
            cost.operations = bench.sizes.deliveries * len(listeners)
        cost.waits = list(arrivals)
        for poll in polls:
            poll.cancel()
    for got in received:
        require(got == sent, "a listener did not get every message once and in order")
    return cost


async def idle_syncs(bench: Bench) -> Measurement:
    """Incremental syncs with nothing new, timeout 0, by 16 clients that are in 10 rooms each."""
    clients = await bench.users(bench.sizes.idle_clients)
    for _ in range(bench.sizes.idle_rooms):
        await bench.room(clients[0], clients[1:])
    tokens = [(await client.sync())["next_batch"] for client in clients]

    async def once(number: int) -> None:
        reply = await clients[number].sync(tokens[number])
        tokens[number] = reply["next_batch"]
        require(not reply.get("rooms", {}).get("join"), "an idle sync says that rooms have news")

    async def repeat(number: int, cost: Measurement) -> None:
        for _ in range(bench.sizes.idle_syncs):
            await timed(cost, once(number))

    everybody = range(len(clients))
    await asyncio.gather(*(once(number) for number in everybody))
    async with bench.meter.measure() as cost:
        await asyncio.gather(*(repeat(number, cost) for number in everybody))
        cost.operations = len(clients) * bench.sizes.idle_syncs
    return cost


async def initial_syncs(bench: Bench) -> Measurement:
    """First syncs of new devices of an account in 100 rooms with 3 messages each, one by one."""
    owner, other = await bench.users(2)
    name = other.user_id[1:].split(":")[0]
    last: dict[str, str] = {}

    async def furnish() -> None:
        room_id = await bench.room(owner, [other])
        for number in range(3):
            last[room_id] = await owner.say(room_id, f"message {number}")

    await in_parallel(4, [furnish for _ in range(bench.sizes.rooms_of_account)])
    devices = [bench.client() for _ in range(bench.sizes.initial_syncs + 1)]
    for device in devices:
        await device.login(name)
    await devices.pop().sync()
    async with bench.meter.measure() as cost:
        replies = [await timed(cost, device.sync()) for device in devices]
        cost.operations = len(devices)
    for reply in replies:
        joined = reply["rooms"]["join"]
        require(joined.keys() == last.keys(), "an initial sync misses rooms")
        for room_id, event_id in last.items():
            got = texts(joined[room_id]["timeline"]["events"])
            require(got[-1] == event_id, "an initial sync lacks a room's last message")
    return cost


async def joins(bench: Bench) -> Measurement:
    """Users join one public room, 4 at once."""
    owner, *users = await bench.users(1 + bench.sizes.joins)
    room_id = await bench.room(owner, await bench.users(4))
    async with bench.meter.measure() as cost:
        await in_parallel(4, [partial(_timed, cost, partial(user.join, room_id)) for user in users])
        cost.operations = len(users)
    members = await owner.joined_members(room_id)
    require({user.user_id for user in users} <= members, "somebody who joined is no member")
    require(len(members) == len(users) + 5, "the room has members that did not join")
    return cost


async def messages(bench: Bench) -> Measurement:
    """Clients page a room of 500 messages from its end to its start, 50 events a page."""
    pagers = await bench.users(bench.sizes.pagers)
    room_id = await bench.room(pagers[0], pagers[1:])
    sent = [await pagers[0].say(room_id, f"message {n}") for n in range(bench.sizes.history)]

    async def page(pager: Client, cost: Measurement) -> None:
        events: list[Json] = []
        start = None
        while True:
            reply = await timed(cost, pager.messages(room_id, start=start, limit=50))
            events += reply["chunk"]
            start = reply.get("end")
            if start is None:
                break
        require(texts(events)[::-1] == sent, "the pages are not the history, once and in order")

    async def pages(pager: Client, cost: Measurement) -> None:
        for _ in range(bench.sizes.rounds):
            await page(pager, cost)

    await page(pagers[0], Measurement())
    async with bench.meter.measure() as cost:
        await asyncio.gather(*(pages(pager, cost) for pager in pagers))
        cost.operations = len(cost.waits)
    return cost


async def _timed(cost: Measurement, job: Callable[[], Awaitable[object]]) -> object:
    return await timed(cost, job())


Scenario = Callable[[Bench], Awaitable[Measurement]]

CHAT: dict[str, Scenario] = {
    "registration": registration,
    "room-creation": room_creation,
    "send-1": sends_alone,
    "send-64": sends_together,
    "fan-out": fan_out,
    "idle-sync": idle_syncs,
    "initial-sync": initial_syncs,
    "join": joins,
    "messages": messages,
}
