"""`python -m bench.push`: how soon gateways hear, and what it costs.

Two servers get the same work, each with a gateway that this program is. `stream`: events are sent
at a rate, each into a room where one user has a pusher; waiting is from the answer to the send,
which follows its commit, to the gateway's receipt, and how long sends wait is said beside.
`room`: a message into a big room of which it notifies everybody, before anybody has a pusher: what
it costs to find out whom it notifies. `crowd`: the same when everybody has one; waiting is until
the last gateway was told. Every notification must come, once; else there is no figure.

The big room is filled while Synapse's push is switched off (nothing else of it is): with it, the
last of 2,000 joins take a second each.
"""

import asyncio
import contextlib
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import click
import msgspec
import uvloop

from bench.client import V3, Client
from bench.meter import Meter, in_parallel
from bench.runs import placed
from bench.scenarios import FULL, Bench, require
from tests.processes import OurServer, Server, running, server_class

SETTLE_SECONDS = 120.0
_WARM = 5
_OK = b'{"rejected":[]}'
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(_OK),
    _OK,
)


class Gateway:
    """A gateway that does as little as it can: when each event came to which key."""

    def __init__(self) -> None:
        self.url = ""
        self.came: dict[tuple[str, str], float] = {}
        self.times: Counter[tuple[str, str]] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(length)
                now = time.perf_counter()
                writer.write(_ANSWER)
                said = msgspec.json.decode(body)["notification"]
                if said.get("event_id"):
                    key = said["event_id"], said["devices"][0]["pushkey"]
                    self.came.setdefault(key, now)
                    self.times[key] += 1
        writer.close()

    async def until(self, count: int) -> None:
        """Wait until so many notifications have come; TimeoutError if they don't."""
        async with asyncio.timeout(SETTLE_SECONDS):
            while len(self.came) < count:  # noqa: ASYNC110  # it must cost nothing
                await asyncio.sleep(0.05)


@asynccontextmanager
async def gateway() -> AsyncIterator[Gateway]:
    """A gateway that listens."""
    made = Gateway()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, backlog=4_096)
    port = server.sockets[0].getsockname()[1]
    made.url = f"http://127.0.0.1:{port}/_matrix/push/v1/notify"
    try:
        yield made
    finally:
        server.close()


async def _register(gateway: Gateway, client: Client) -> None:
    body = {
        "app_id": "bench.app",
        "pushkey": client.user_id,
        "kind": "http",
        "app_display_name": "Bench",
        "device_display_name": "Bench",
        "lang": "en",
        "data": {"url": gateway.url},
    }
    await client.call("POST", f"{V3}/pushers/set", body)


async def stream(bench: Bench, told: Gateway, rate: int, seconds: int, rooms: int) -> str:
    """Events at a rate, each of which one gateway must hear of."""
    users = await bench.users(2 * rooms)
    pairs = list(zip(users[:rooms], users[rooms:], strict=True))
    ids = [await bench.room(sender, [receiver]) for sender, receiver in pairs]
    await in_parallel(4, [partial(_register, told, receiver) for _, receiver in pairs])
    sent_at: dict[tuple[str, str], float] = {}
    sends: list[float] = []

    async def send(number: int) -> None:
        sender, receiver = pairs[number % rooms]
        start = time.perf_counter()
        event_id = await sender.say(ids[number % rooms], f"message {number}")
        now = sent_at[event_id, receiver.user_id] = time.perf_counter()
        sends.append(1_000 * (now - start))

    # Connections to the gateway are made before, as they are in use.
    for number in range(rooms):
        await send(number)
    await told.until(rooms)
    sent_at.clear()
    sends.clear()
    async with bench.meter.measure() as cost:
        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(rate * seconds):
                await asyncio.sleep(start + number / rate - time.perf_counter())
                group.create_task(send(number))
        sent = time.perf_counter() - start
        await told.until(rooms + len(sent_at))
    require(set(sent_at) <= set(told.came), "a gateway was not told of an event")
    require(max(told.times.values()) == 1, "a gateway was told twice")
    waits = [max(0.0, 1_000 * (told.came[key] - at)) for key, at in sent_at.items()]
    cost.operations = len(sent_at)
    cpu = cost.cpu_ms
    return (
        f"{len(sent_at) / sent:.0f} events/s; gateway told {_waits(waits)}; sends {_waits(sends)};"
        f" {cpu:.2f} CPU ms an event with its push; load {cost.load:.1f},"
        f" others' cores {cost.foreign_cores:.1f}"
    )


def _waits(waits: list[float]) -> str:
    p50, p95, p99 = (statistics.quantiles(waits, n=100)[at - 1] for at in (50, 95, 99))
    return f"p50 {p50:.0f}, p95 {p95:.0f}, p99 {p99:.0f} ms"


async def crowd(
    bench: Bench, told: Gateway, crowd: list[Client], room_id: str, messages: int
) -> str:
    """Messages of the first, each of which the gateways of all others must hear of."""
    sender, *receivers = crowd
    members = len(receivers)
    await in_parallel(8, [partial(_register, told, receiver) for receiver in receivers])
    known = len(told.came)
    await sender.say(room_id, "warm")
    await told.until(known + members)
    before = set(told.came)
    waits = []
    async with bench.meter.measure() as cost:
        for number in range(messages):
            known = len(told.came)
            start = time.perf_counter()
            await sender.say(room_id, f"message {number}")
            await told.until(known + members)
            waits.append(max(told.came.values()) - start)
    keys = {key for event, key in set(told.came) - before}
    require(len(keys) == members, "somebody was not told")
    cost.operations = messages
    cpu = cost.cpu_ms
    return (
        f"{cpu:.0f} CPU ms a message, {cpu / members:.3f} a notification; the last of {members}"
        f" after {statistics.median(waits):.1f} s; load {cost.load:.1f},"
        f" others' cores {cost.foreign_cores:.1f}"
    )


async def room(bench: Bench, crowd: list[Client], room_id: str, messages: int) -> str:
    """Messages of the first, each of which notifies all others; nobody has a pusher."""
    sender, *receivers = crowd
    reader = receivers[-1]
    token = (await reader.sync())["next_batch"]
    for number in range(_WARM):
        await sender.say(room_id, f"warm {number}")
    async with bench.meter.measure() as cost:
        for number in range(messages):
            await sender.say(room_id, f"message {number}")
    seen = (await reader.sync(token))["rooms"]["join"][room_id]
    count = seen["unread_notifications"]["notification_count"]
    require(count == messages + _WARM, f"a member is told of {count} notifications")
    cost.operations = messages
    cpu = cost.cpu_ms
    return (
        f"{cpu:.2f} CPU ms a message that notifies {len(receivers)}; load {cost.load:.1f},"
        f" others' cores {cost.foreign_cores:.1f}"
    )


def _configure(server: Server, *, push: bool) -> None:
    """Let the server speak to a gateway on this machine; Synapse with or without push."""
    if isinstance(server, OurServer):
        if push:
            with server.config.open("a") as config:
                config.write("[federation]\nallow_networks = ['127.0.0.0/8']\n")
        return
    path = server.folder / "homeserver.yaml"
    settings = json.loads(path.read_text())
    settings["ip_range_whitelist"] = ["127.0.0.0/8"]
    settings["push"] = {"enabled": push}
    path.write_text(json.dumps(settings, indent=1))


async def _run(
    kind: str, database: str, rate: int, seconds: int, rooms: int, members: int, messages: int
) -> None:
    def tell(what: str, line: str) -> None:
        click.echo(f"{what:7} {kind:8} {database:10} {line}")

    with placed(database) as (folder, url, process):
        server = server_class(kind)(folder / kind, url)
        _configure(server, push=False)
        with running(server):
            bench = Bench(server, Meter(server.pid, process), FULL)
            everybody = await bench.users(members + 1) if messages else []
            room_id = await bench.room(everybody[0], everybody[1:]) if messages else ""
            bench.close()
        _configure(server, push=True)
        with running(server):
            bench.meter = Meter(server.pid, process)
            async with gateway() as told:
                if seconds:
                    tell("stream", await stream(bench, told, rate, seconds, rooms))
                if messages:
                    tell("room", await room(bench, everybody, room_id, 10 * messages))
                    tell("crowd", await crowd(bench, told, everybody, room_id, messages))
            bench.close()


@click.command()
@click.option("--server", "servers", multiple=True, default=("ours", "synapse"))
@click.option("--database", "databases", multiple=True, default=("sqlite", "postgresql"))
@click.option("--rate", default=200, help="Events a second of the stream.")
@click.option("--seconds", default=20, help="How long the stream lasts, 0 for none.")
@click.option("--rooms", default=50, help="Rooms of the stream, a pusher in each.")
@click.option("--members", default=2_000, help="Members of the big room, and their pushers.")
@click.option("--messages", default=5, help="Messages into the crowd's room, 0 for neither.")
def main(
    servers: tuple[str, ...],
    databases: tuple[str, ...],
    rate: int,
    seconds: int,
    rooms: int,
    members: int,
    messages: int,
) -> None:
    """Measure how soon gateways hear of events, and the CPU time that it takes."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for database in databases:
            for server in servers:
                runner.run(_run(server, database, rate, seconds, rooms, members, messages))


if __name__ == "__main__":
    sys.exit(main())
