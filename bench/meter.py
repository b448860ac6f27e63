"""What a piece of work cost: CPU of the server and its database, time, waiting, and foreign load.

CPU time is the figure that counts: it is the work done, whatever else the machine was doing, while
times on a shared machine are mostly the neighbours' doing. Nothing here knows the work itself.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import psutil

from tests.processes import cpu_seconds

Result = TypeVar("Result")
SETTLE_SECONDS = 2.0


@dataclass
class Measurement:
    """One scenario's cost. CPU time is divided by `operations`; `waits` are seconds each.

    `foreign_cores` is how many cores were busy with neither server, database nor client program.
    """

    operations: int = 0
    server_cpu: float = 0.0
    database_cpu: float = 0.0
    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)
    foreign_cores: float = 0.0
    load: float = 0.0

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds an operation, of the server and of its database together."""
        return 1000 * (self.server_cpu + self.database_cpu) / self.operations

    @property
    def database_cpu_ms(self) -> float:
        """The database's share of `cpu_ms`; 0 when the database is part of the server's process."""
        return 1000 * self.database_cpu / self.operations

    @property
    def per_second(self) -> float:
        """Operations a second."""
        return self.operations / self.seconds if self.seconds else 0.0

    def wait_ms(self, share: float) -> float:
        """The time below which this share of the operations was answered, in milliseconds."""
        if not self.waits:
            return 0.0
        ordered = sorted(self.waits)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Meter:
    """Measures between two moments; `server` and `database` are the roots of process trees.

    What a server puts off until after its answers is work too: CPU is counted until the processes
    have become quiet, at most SETTLE_SECONDS later. `seconds` ends with the work itself.
    """

    def __init__(self, server: int, database: int | None = None) -> None:
        self._server = server
        self._database = database

    @asynccontextmanager
    async def measure(self) -> AsyncIterator[Measurement]:
        """Give a measurement that is filled in at the end; the caller sets `operations`."""
        measurement = Measurement()
        await self._quiet()
        server, database = self._cpu()
        client, machine, start = time.process_time(), _machine_cpu(), time.perf_counter()
        yield measurement
        measurement.seconds = time.perf_counter() - start
        measurement.load = os.getloadavg()[0]
        await self._quiet()
        server_end, database_end = self._cpu()
        measurement.server_cpu = server_end - server
        measurement.database_cpu = database_end - database
        known = measurement.server_cpu + measurement.database_cpu + time.process_time() - client
        foreign = max(0.0, _machine_cpu() - machine - known)
        measurement.foreign_cores = foreign / (time.perf_counter() - start)

    def now(self) -> float:
        """CPU seconds of server and database until now."""
        return sum(self._cpu())

    def _cpu(self) -> tuple[float, float]:
        database = 0.0 if self._database is None else cpu_seconds(self._database)
        return cpu_seconds(self._server), database

    async def _quiet(self) -> None:
        """Wait until the processes used less than 2 % of a core over a moment."""
        limit = time.monotonic() + SETTLE_SECONDS
        before = sum(self._cpu())
        while time.monotonic() < limit:
            await asyncio.sleep(0.1)
            after = sum(self._cpu())
            if after - before < 0.002:
                return
            before = after


def _machine_cpu() -> float:
    """CPU seconds that all cores together have been busy since the machine started."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + getattr(times, "irq", 0.0)


async def timed(measurement: Measurement, work: Awaitable[Result]) -> Result:
    """Await one operation and note how long its answer took."""
    start = time.perf_counter()
    result = await work
    measurement.waits.append(time.perf_counter() - start)
    return result


async def in_parallel(width: int, jobs: Sequence[Callable[[], Awaitable[Result]]]) -> list[Result]:
    """Run the jobs, at most `width` at a time; results in the order of the jobs."""
    results: dict[int, Result] = {}
    queue = iter(enumerate(jobs))

    async def drain() -> None:
        for number, job in queue:
            results[number] = await job()

    async with asyncio.TaskGroup() as group:
        for _ in range(width):
            group.create_task(drain())
    return [results[number] for number in range(len(jobs))]
