"""`python -m bench.ends`: what a room costs into which another server puts a thousand loose ends.

A server that the program plays sends events that all stand behind one, so that the room's graph
has as many ends as there are events, and goes on with so many a minute. Told are the CPU time of
our server for each event, what two people in another room notice of that, against the time before
and after it, and what is left to pay when our last user has gone.
"""

import asyncio
import itertools
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import click
import trustme

from bench.client import Client
from bench.meter import Measurement, Meter
from homeserver.matrix.event import Event
from homeserver.users.operator import FILE
from tests.federation.branch import Branch
from tests.federation.house import HouseServer, house

AT_ONCE = 50
QUIET_SECONDS = 0.5
PATIENCE = 300.0
IDLE_SECONDS = 10.0
BESIDE_SECONDS = 60.0
PAUSE = 0.02
"""Seconds between two messages of the people in the other room."""


class Bench:
    """One server of ours, one that is played, and people in two rooms."""

    def __init__(self, ours: HouseServer) -> None:
        self.ours = ours
        self.meter = Meter(ours.pid)
        self.figures: dict[str, float] = {}
        self._numbers = itertools.count()

    async def person(self) -> Client:
        """A new account."""
        client = Client("127.0.0.1", self.ours.port)
        await client.register(f"p{next(self._numbers)}")
        return client

    async def settle(self) -> None:
        """Wait until the server has nothing to do any more."""
        limit = time.monotonic() + PATIENCE
        before = self.meter.now()
        while time.monotonic() < limit:
            await asyncio.sleep(QUIET_SECONDS)
            after = self.meter.now()
            if after - before < 0.005:
                return
            before = after

    async def cost(self, name: str, count: int, work: Callable[[], Awaitable[None]]) -> None:
        """CPU milliseconds of one of `count` things that are done by `work`."""
        await self.settle()
        async with self.meter.measure() as found:
            await work()
            await self.settle()
            found.operations = count
        self.tell(name, found.cpu_ms, "ms CPU")

    async def idle(self, name: str) -> None:
        """What the server uses when nobody asks for anything."""
        await self.settle()
        before = self.meter.now()
        await asyncio.sleep(IDLE_SECONDS)
        self.tell(name, 100 * (self.meter.now() - before) / IDLE_SECONDS, "% of a core")

    def tell(self, name: str, figure: float, unit: str) -> None:
        """Say a figure and keep it."""
        self.figures[name] = round(figure, 3)
        click.echo(f"{name:48} {figure:9.2f} {unit}")

    async def ends(self, room: str) -> int:
        """How many ends the room has here."""
        token = (self.ours.folder / FILE).read_text().strip()
        path = f"/_homeserver/admin/v1/rooms/{room}/check?ask_servers=false"
        return int((await self.ours.request("GET", path, token=token)).body["ends"])


async def give(branch: Branch, to: HouseServer, events: list[Event]) -> None:
    """Send events, so many in each transaction."""
    for start in range(0, len(events), AT_ONCE):
        part = events[start : start + AT_ONCE]
        reply = await branch.guest.send(to, *(event.pdu for event in part))
        assert reply.status == 200, reply.body


async def hear(person: Client, room: str, event_id: str, since: str) -> str:
    """Sync from a token on until the event has come; the token after it."""
    told: set[str] = set()
    while event_id not in told:
        answer = await person.sync(since, timeout=10_000)
        since = str(answer["next_batch"])
        section = answer.get("rooms", {}).get("join", {}).get(room, {})
        told |= {one["event_id"] for one in section.get("timeline", {}).get("events", ())}
    return since


async def waits(
    speaker: Client, listener: Client, room: str, goes_on: Callable[[Measurement], bool]
) -> Measurement:
    """How long messages of a room take to those who listen."""
    found = Measurement()
    since = str((await listener.sync())["next_batch"])
    while goes_on(found):
        begun = time.perf_counter()
        since = await hear(listener, room, await speaker.say(room, "hello"), since)
        found.waits.append(time.perf_counter() - begun)
        await asyncio.sleep(PAUSE)
    return found


async def beside(bench: Bench, branch: Branch, alice: Client, traffic: list[Event]) -> None:
    """What people in another room notice of a minute's traffic, all of which Alice hears."""
    speaker, listener = await bench.person(), await bench.person()
    other = await speaker.create_room(preset="public_chat")
    await listener.join(other)
    over = asyncio.Event()

    async def come() -> None:
        since, begun, sent = str((await alice.sync())["next_batch"]), time.monotonic(), 0
        while sent < len(traffic):
            due = int(len(traffic) * (time.monotonic() - begun) / BESIDE_SECONDS) + 1
            await give(branch, bench.ours, traffic[sent:due])
            sent = min(due, len(traffic))
            await asyncio.sleep(BESIDE_SECONDS / len(traffic))
        await hear(alice, branch.room, traffic[-1].event_id, since)
        over.set()

    async def alone() -> list[float]:
        await bench.settle()
        until = time.monotonic() + BESIDE_SECONDS / 2
        return (await waits(speaker, listener, other, lambda _: time.monotonic() < until)).waits

    usual = Measurement(waits=await alone())
    _, found = await asyncio.gather(
        come(), waits(speaker, listener, other, lambda _: not over.is_set())
    )
    usual.waits += await alone()
    for name, measured in (("usual", usual), ("meanwhile", found)):
        for share in (0.5, 0.99):
            name_of = f"another room's message, {name}, p{100 * share:.0f}"
            bench.tell(name_of, measured.wait_ms(share), "ms")


async def measure(
    bench: Bench, branch: Branch, alice: Client, ends: int, more: int, rate: int
) -> None:
    """All figures of one room."""
    ours, room = bench.ours, branch.room
    line = branch.fork()
    chain = [line.add("m.room.message", {"body": str(number)}) for number in range(more)]
    await bench.cost("an event, one end", more, lambda: give(branch, ours, chain))
    forks = [branch.say(str(number)) for number in range(ends + more + rate)]
    first, second, third = forks[:ends], forks[ends : ends + more], forks[ends + more :]
    await bench.cost(
        f"an event, on the way to {ends} ends", ends, lambda: give(branch, ours, first)
    )
    await bench.cost(f"an event, from {ends} ends on", more, lambda: give(branch, ours, second))
    found = await bench.ends(room)
    assert found == ends + more + 1, f"{found} ends"
    await beside(bench, branch, alice, third)

    async def speak() -> None:
        for number in range(more // 10):
            await alice.say(room, f"ours {number}")

    await bench.cost("a message of ours there", more // 10, speak)
    await alice.leave(room)
    late = [branch.say(f"late {number}") for number in range(more)]
    await bench.cost(
        "an event after our last user has gone", more, lambda: give(branch, ours, late)
    )
    await bench.idle("idle after that")


@click.command()
@click.option("--ends", default=1_000, help="How many ends the room gets.")
@click.option("--more", default=400, help="How many events each figure is taken of.")
@click.option("--rate", default=200, help="How many events come in a minute after that.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures here.")
def main(ends: int, more: int, rate: int, json_path: Path | None) -> None:
    """Measure what a room with many ends costs."""

    async def run() -> dict[str, float]:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            async with house(trustme.CA(), Path(folder)) as made:
                (ours,) = await made.start("a.example")
                bench = Bench(ours)
                await bench.idle("idle with no room")
                alice = await bench.person()
                room = await alice.create_room(preset="public_chat", room_version="11")
                guest = await made.guest("guest.example")
                branch = await Branch.join(guest, ours, room)
                await measure(bench, branch, alice, ends, more, rate)
                return bench.figures

    figures = asyncio.run(run())
    if json_path is not None:
        json_path.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
