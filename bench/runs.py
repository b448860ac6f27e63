"""One run: a server on a database, the scenarios on it, and what can only be measured from outside.

Each pair of server and database gets a fresh folder and a fresh database; its scenarios run one
after the other on one warm process, as a server lives. Cold start and idle memory have servers of
their own.
"""

import asyncio
import os
import signal
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.crowds import CROWDS
from bench.features import FEATURES
from bench.keys import KEYS
from bench.meter import Measurement, Meter
from bench.sampler import hot_spots
from bench.scenarios import CHAT, Bench, Sizes
from bench.services import registration
from tests.processes import DidNotStart, OurServer, Server, postgresql_url, running, server_class

SCENARIO_SECONDS = 900
COLD_STARTS = 3
SCENARIOS = CHAT | KEYS | FEATURES
OUTSIDE = ("memory-after-work", "cold-start", "idle-memory")
NAMES = (*SCENARIOS, *CROWDS, *OUTSIDE)
MEGABYTE = 1024 * 1024


@dataclass
class Figure:
    """What a scenario showed for a server on a database; `failure` says why there is no value."""

    scenario: str
    server: str
    database: str
    value: float | None = None
    unit: str = "ms"
    database_share: float = 0.0
    per_second: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    operations: int = 0
    resident_mb: float | None = None
    foreign_cores: float = 0.0
    load: float = 0.0
    failure: str | None = None


@dataclass(frozen=True)
class Plan:
    """What to run, and how to tell of it as it goes."""

    sizes: Sizes
    scenarios: tuple[str, ...]
    tell: Callable[[str], None]
    profile: bool = False
    presence: bool = False


@contextmanager
def placed(database: str) -> Iterator[tuple[Path, str | None, int | None]]:
    """A folder, the database's URL (None: SQLite in the folder) and PostgreSQL's process number."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        if database == "sqlite":
            yield Path(name), None, None
            return
        from tests.databases import PostgresServer

        postgres = PostgresServer(durable=True)
        try:
            yield Path(name), postgresql_url(postgres.blank_database()), postgres.pid
        finally:
            postgres.stop()


class ProfilingMeter(Meter):
    """A meter that has the sampler of our server note only what it measures."""

    def __init__(self, server: int, database: int | None, samples: Path) -> None:
        super().__init__(server, database)
        self._pid = server
        self._samples = samples

    @asynccontextmanager
    async def measure(self) -> AsyncIterator[Measurement]:
        """Measure, and tell where the time went."""
        async with super().measure() as cost:
            os.kill(self._pid, signal.SIGUSR1)
            yield cost
        os.kill(self._pid, signal.SIGUSR2)
        _tell_hot_spots(self._samples)


def _tell_hot_spots(samples: Path) -> None:
    limit = time.monotonic() + 10
    while not samples.exists() and time.monotonic() < limit:
        time.sleep(0.05)
    print("\n".join(hot_spots(samples)), flush=True)
    samples.unlink()


async def measure_all(kind: str, database: str, plan: Plan) -> list[Figure]:
    """All figures of the plan for one server on one database."""
    figures: list[Figure] = []

    def note(figure: Figure) -> None:
        figures.append(figure)
        plan.tell(line(figure))

    inside = [name for name in plan.scenarios if name in SCENARIOS]
    if inside:
        try:
            await _scenarios(kind, database, plan, inside, note)
        except DidNotStart as error:
            for name in inside:
                note(Figure(name, kind, database, failure=_innermost(error)))
    for name in CROWDS:
        if name in plan.scenarios:
            note(await _crowd(Figure(name, kind, database), plan))
    for name, outside in (("cold-start", _cold_start), ("idle-memory", _idle_memory)):
        if name in plan.scenarios:
            figure = Figure(name, kind, database)
            try:
                await outside(figure)
            except Exception as error:
                figure.failure = _innermost(error)
            note(figure)
    return figures


async def _scenarios(
    kind: str, database: str, plan: Plan, names: list[str], note: Callable[[Figure], None]
) -> None:
    with placed(database) as (folder, url, pid):
        server = server_class(kind)(folder, url, presence=plan.presence)
        samples = folder / "samples.json"
        if plan.profile and isinstance(server, OurServer):
            server.wrapper = ("-m", "bench.sampler", str(samples))
        with running(server):
            meter = Meter(server.pid, pid)
            if plan.profile:
                meter = ProfilingMeter(server.pid, pid, samples)
            bench = Bench(server, meter, plan.sizes)
            for name in names:
                note(await _scenario(bench, Figure(name, kind, database)))
            if "memory-after-work" in plan.scenarios:
                resident = server.resident() / MEGABYTE
                note(Figure("memory-after-work", kind, database, resident, "MB"))
            bench.close()


async def _crowd(figure: Figure, plan: Plan) -> Figure:
    """A crowd on a server of its own."""
    crowd = CROWDS[figure.scenario]
    try:
        with placed(figure.database) as (folder, url, pid):
            services = [registration(folder)] if crowd.service else []
            server = server_class(figure.server)(
                folder,
                url,
                presence=plan.presence,
                cheap_passwords=crowd.cheap_passwords,
                limits=crowd.limits,
                services=services,
            )
            with running(server):
                bench = Bench(server, Meter(server.pid, pid), plan.sizes)
                async with asyncio.timeout(SCENARIO_SECONDS):
                    outcome = await crowd.run(bench)
                bench.close()
    except Exception as error:
        figure.failure = _innermost(error)
        return figure
    _fill(figure, outcome.cost)
    figure.value = outcome.value
    figure.unit = outcome.unit
    figure.resident_mb = outcome.resident
    return figure


async def _scenario(bench: Bench, figure: Figure) -> Figure:
    try:
        async with asyncio.timeout(SCENARIO_SECONDS):
            cost = await SCENARIOS[figure.scenario](bench)
    except Exception as error:
        figure.failure = _innermost(error)
        return figure
    _fill(figure, cost)
    return figure


def _fill(figure: Figure, cost: Measurement) -> None:
    figure.value = cost.cpu_ms
    figure.database_share = cost.database_cpu_ms
    figure.per_second = cost.per_second
    figure.p50_ms = cost.wait_ms(0.50)
    figure.p99_ms = cost.wait_ms(0.99)
    figure.operations = cost.operations
    figure.foreign_cores = cost.foreign_cores
    figure.load = cost.load


def _innermost(error: BaseException) -> str:
    """The first real failure inside groups of failures, in words."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


async def _cold_start(figure: Figure) -> None:
    """CPU seconds from start until the first answer, on an existing database; the median."""
    with placed(figure.database) as (folder, url, pid):
        server = server_class(figure.server)(folder, url)
        with running(server):
            pass
        spent = []
        for _ in range(COLD_STARTS):
            database = 0.0 if pid is None else Meter(pid).now()
            with running(server):
                spent.append(server.cpu())
                if pid is not None:
                    spent[-1] += Meter(pid).now() - database
        figure.value = statistics.median(spent)
        figure.unit = "s"
        figure.load = os.getloadavg()[0]


async def _idle_memory(figure: Figure) -> None:
    """Resident memory with 10 users in one room whose long polls are parked."""
    with placed(figure.database) as (folder, url, pid):
        server: Server = server_class(figure.server)(folder, url)
        with running(server):
            bench = Bench(server, Meter(server.pid, pid), Sizes())
            users = await bench.users(10)
            room_id = await bench.room(users[0], users[1:])
            await users[0].say(room_id, "hello")
            tokens = [(await user.sync())["next_batch"] for user in users]
            polls = [
                asyncio.create_task(user.sync(token, timeout=30_000))
                for user, token in zip(users, tokens, strict=True)
            ]
            await asyncio.sleep(3)
            figure.value = server.resident() / MEGABYTE
            figure.unit = "MB"
            figure.load = os.getloadavg()[0]
            for poll in polls:
                poll.cancel()
            await asyncio.gather(*polls, return_exceptions=True)
            bench.close()


def line(figure: Figure) -> str:
    """One figure as a line of text."""
    head = f"{figure.server:8} {figure.database:10} {figure.scenario:18}"
    if figure.value is None:
        return f"{head} FAILED: {figure.failure}"
    text = f"{head} {figure.value:9.3f} {figure.unit}"
    if figure.per_second is None:
        return text
    share = f" (database {figure.database_share:.3f})" if figure.database_share else ""
    return (
        f"{text}{share}  {figure.per_second:8.1f}/s  p50 {figure.p50_ms:.1f} ms"
        f"  p99 {figure.p99_ms:.1f} ms  x{figure.operations}"
        f"{'' if figure.resident_mb is None else f'  resident {figure.resident_mb:.0f} MB'}"
        f"  load {figure.load:.1f}, others {figure.foreign_cores:.2f} cores"
    )
