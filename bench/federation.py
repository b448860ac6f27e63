"""`python -m bench.federation`: what rooms cost that live on two servers, ours and Synapse's.

Two servers of a kind share rooms over TLS on the loopback address; what is measured is the CPU time
of both together, and when the other server's people see what happened. Nothing counts that did not
come down their live sync.
"""

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import click
import trustme
import uvloop

from bench.client import Client
from bench.meter import Measurement, Meter, in_parallel
from tests.federation.servers import FederatedServer, FederatedSynapse
from tests.processes import Server, postgresql_url

SENDERS = 16
PATIENCE = 60.0
WHOLE = '{"room":{"timeline":{"limit":1000}}}'
"""A filter by which no burst is cut short."""
Scenario = Callable[["Pair", int], Awaitable[tuple[Measurement, int]]]
"""What is done so many times; says what it cost and how much was not delivered."""


@dataclass
class Result:
    """A line of the table: CPU of both servers an operation, and how long people waited."""

    scenario: str
    server: str
    cpu_ms: float
    operations: int
    p50_ms: float
    p99_ms: float
    seconds: float
    lost: int
    others: float

    def line(self) -> str:
        """For people."""
        return (
            f"{self.server:8} {self.scenario:22} {self.cpu_ms:9.2f} ms CPU  p50 {self.p50_ms:8.1f}"
            f"  p99 {self.p99_ms:8.1f} ms  {self.operations:6} in {self.seconds:6.2f} s"
            f"  {self.lost} not delivered live  ({self.others:.1f} cores busy with others)"
        )


class Pair:
    """Two servers of one kind, and people on them."""

    def __init__(self, near: Server, far: Server, databases: list[int]) -> None:
        self.near = near
        self.far = far
        self._databases = databases
        self._clients: list[Client] = []
        self._number = 0

    @asynccontextmanager
    async def measure(self) -> AsyncIterator[Measurement]:
        """What both servers spend."""
        near = Meter(self.near.pid, self._databases[0] if self._databases else None)
        far = Meter(self.far.pid)
        async with near.measure() as cost, far.measure() as other:
            yield cost
            other.operations = cost.operations
        cost.server_cpu += other.server_cpu
        cost.foreign_cores -= other.server_cpu / max(cost.seconds, 0.01)

    async def person(self, server: Server) -> Client:
        """A new account."""
        self._number += 1
        client = Client("127.0.0.1", server.port)
        self._clients.append(client)
        await client.register(f"p{self._number}")
        return client

    def close(self) -> None:
        """Drop the connections."""
        for client in self._clients:
            client.close()


class Follower:
    """Somebody whose live sync notes when each text came."""

    def __init__(self, client: Client, room_id: str) -> None:
        self.seen: dict[str, float] = {}
        self._client = client
        self._room_id = room_id
        self._news = asyncio.Event()
        self._since: str | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Be up to date, and follow from here on."""
        self._since = (await self._client.sync(sync_filter=WHOLE))["next_batch"]
        self._task = asyncio.create_task(self._follow())

    async def saw(self, count: int) -> bool:
        """Whether so many texts came, in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while len(self.seen) < count:
                    self._news.clear()
                    await self._news.wait()
        return len(self.seen) >= count

    async def stop(self) -> None:
        """Stop following."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _follow(self) -> None:
        while True:
            answer = await self._client.sync(self._since, timeout=10_000, sync_filter=WHOLE)
            now = time.perf_counter()
            self._since = answer["next_batch"]
            room = answer.get("rooms", {}).get("join", {}).get(self._room_id, {})
            for event in room.get("timeline", {}).get("events", []):
                if event["type"] == "m.room.message":
                    self.seen.setdefault(event["content"]["body"], now)
            self._news.set()


async def shared_room(pair: Pair, members: int = 1) -> tuple[list[Client], str]:
    """A public room with so many people on the near server."""
    people = [await pair.person(pair.near)]
    room_id = await people[0].create_room(preset="public_chat")

    async def come() -> None:
        one = await pair.person(pair.near)
        await one.join(room_id)
        people.append(one)

    await in_parallel(32, [come] * (members - 1))
    return people, room_id


async def remote_join(client: Client, server: Server, room_id: str) -> None:
    """Join a room that another server has."""
    path = f"/_matrix/client/v3/join/{room_id.replace('!', '%21')}?server_name={server.name}"
    await client.call("POST", path, {})


async def delivery(pair: Pair, count: int) -> tuple[Measurement, int]:
    """One message after the other, each when the one before was seen."""
    (alice,), room_id = await shared_room(pair)
    bob = await pair.person(pair.far)
    await remote_join(bob, pair.near, room_id)
    follower = Follower(bob, room_id)
    await follower.start()
    await alice.say(room_id, "first")
    await follower.saw(1)
    async with pair.measure() as cost:
        for number in range(count):
            begun = time.perf_counter()
            await alice.say(room_id, f"text {number}")
            await follower.saw(number + 2)
            cost.waits.append(follower.seen.get(f"text {number}", begun + PATIENCE) - begun)
        cost.operations = count
    await follower.stop()
    return cost, count + 1 - len(follower.seen)


async def burst(pair: Pair, count: int) -> tuple[Measurement, int]:
    """As many messages as the near server takes, until the far one's people have seen all."""
    people, room_id = await shared_room(pair, SENDERS)
    bob = await pair.person(pair.far)
    await remote_join(bob, pair.near, room_id)
    follower = Follower(bob, room_id)
    await follower.start()
    begun: dict[str, float] = {}

    async def talk(person: Client, name: int) -> None:
        for number in range(count // SENDERS):
            text = f"{name}.{number}"
            begun[text] = time.perf_counter()
            await person.say(room_id, text)

    async with pair.measure() as cost:
        await asyncio.gather(*(talk(person, name) for name, person in enumerate(people)))
        await follower.saw(len(begun))
        cost.waits = [
            follower.seen[text] - at for text, at in begun.items() if text in follower.seen
        ]
        cost.operations = len(begun)
    await follower.stop()
    return cost, len(begun) - len(follower.seen)


def joining(members: int, messages: int) -> Scenario:
    """A remote join of a room with so many members and messages."""

    async def run(pair: Pair, count: int) -> tuple[Measurement, int]:
        people, room_id = await shared_room(pair, members)
        for number in range(messages):
            await people[number % len(people)].say(room_id, f"text {number}")
        bob = await pair.person(pair.far)
        async with pair.measure() as cost:
            begun = time.perf_counter()
            await remote_join(bob, pair.near, room_id)
            cost.waits.append(time.perf_counter() - begun)
            cost.operations = 1
        found = await bob.joined_members(room_id)
        return cost, members + 1 - len(found)

    return run


@contextmanager
def pair_of(kind: str, database: str) -> Iterator[Pair]:
    """Two running servers."""
    authority = trustme.CA()
    made = FederatedServer if kind == "ours" else FederatedSynapse
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        urls: list[str | None] = [None, None]
        postgres = None
        if database == "postgresql":
            from tests.databases import PostgresServer

            postgres = PostgresServer(durable=True)
            urls = [postgresql_url(postgres.blank_database()) for _ in urls]
        near, far = (made(Path(name) / str(n), authority, url) for n, url in enumerate(urls))
        pair = None
        try:
            near.start()
            far.start()
            pair = Pair(near, far, [postgres.pid] if postgres is not None else [])
            yield pair
        except BaseException as error:
            error.add_note(near.log_end(20) + "\n--- far ---\n" + far.log_end(20))
            raise
        finally:
            if pair is not None:
                pair.close()
            near.kill()
            far.kill()
            if postgres is not None:
                postgres.stop()


@click.command()
@click.option(
    "--server",
    "servers",
    multiple=True,
    type=click.Choice(["ours", "synapse"]),
    default=["ours", "synapse"],
)
@click.option("--database", type=click.Choice(["sqlite", "postgresql"]), default="sqlite")
@click.option("--events", default=1_000, help="Events of the burst; a fifth of them one by one.")
@click.option("--members", multiple=True, type=int, default=[200, 500], help="Rooms joined.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures here.")
def main(
    servers: tuple[str, ...],
    database: str,
    events: int,
    members: tuple[int, ...],
    json_path: Path | None,
) -> None:
    """Measure what federated rooms cost both of their servers."""
    results: list[Result] = []

    async def run(kind: str) -> None:
        scenarios: dict[str, Scenario] = {"delivery, one by one": delivery, "burst": burst}
        scenarios |= {f"join, {n} members": joining(n, 300) for n in members}
        for name, scenario in scenarios.items():
            with pair_of(kind, database) as pair:
                count = events if name == "burst" else events // 5
                cost, lost = await scenario(pair, count)
            results.append(
                Result(
                    name,
                    kind,
                    cost.cpu_ms,
                    cost.operations,
                    cost.wait_ms(0.5),
                    cost.wait_ms(0.99),
                    cost.seconds,
                    lost,
                    cost.foreign_cores,
                )
            )
            click.echo(results[-1].line())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for kind in servers:
            runner.run(run(kind))
    if json_path is not None:
        json_path.write_text(json.dumps([vars(result) for result in results], indent=1))


if __name__ == "__main__":
    main()
