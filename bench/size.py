"""`python -m bench.size`: what a busy room takes on disk, beside the JSON of its events.

Replays a room's life through the services of a whole server (no HTTP), on a clock that runs as fast
as the work is done, then closes the server and accounts for every byte. The figure that counts is
the size of the whole database over the size of the events' canonical JSON: at most 1.3.
"""

import asyncio
import logging
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click
import uvloop
from psycopg.conninfo import conninfo_to_dict

from bench.traffic import Traffic
from homeserver.app import App, database_settings
from homeserver.config import Config
from homeserver.errors import MatrixError
from homeserver.rooms.actor import Room
from homeserver.rooms.append import Txn
from homeserver.rooms.create import NewRoom
from homeserver.runtime.clock import FakeClock
from homeserver.users.accounts import NewAccount
from homeserver.users.receipts import Receipt
from homeserver.users.sessions import DeviceRequest, Session
from storage.engine import Database, open_database
from storage.events import event_json
from storage.size import Sizes, sizes
from tests.databases import PostgresServer

SERVER = "bench.example"
DAYS = 30
_AT_ONCE = 32


@dataclass(frozen=True)
class Replayed:
    """What was done: events sent, and how long it took."""

    events: int
    json_bytes: int
    seconds: float
    cpu_seconds: float
    sizes: Sizes

    @property
    def ratio(self) -> float:
        """Bytes of the database over bytes of event JSON."""
        return self.sizes.total / self.json_bytes


class _Life:
    """The room while it is being lived in."""

    def __init__(self, app: App, room: Room, people: list[Session], traffic: Traffic) -> None:
        self._services = app.services
        self._room = room
        self._people = people
        self._traffic = traffic
        self._away: set[int] = set()
        self._moving: set[int] = set()

    async def act(self) -> None:
        """One thing happens."""
        kind, number = self._traffic.next()
        person = self._people[number]
        assert person.device_nid is not None
        services, room, traffic = self._services, self._room, self._traffic
        txn = Txn(person.device_nid, room.nid, traffic.txn_id())
        if kind == "message":
            content = traffic.message()
            sent = await services.posting.send(person.user_id, room, "m.room.message", content, txn)
            traffic.sent(sent)
        elif kind == "reaction":
            content = traffic.reaction()
            try:
                await services.posting.send(person.user_id, room, "m.reaction", content, txn)
            except MatrixError as error:
                if error.errcode != "M_DUPLICATE_ANNOTATION":
                    raise
        elif kind == "redaction":
            own = await services.posting.send(
                person.user_id, room, "m.room.message", traffic.message(), txn
            )
            await services.posting.redact(person.user_id, room, own, {"reason": "a slip"})
        elif kind == "profile":
            name = {"displayname": traffic.name()}
            await services.profiles.put(person.user_nid, "displayname", name)
        elif kind == "receipt":
            receipt = Receipt("m.read", traffic.recent[-1])
            await services.receipts.move(person, room, receipt)
        elif number not in self._moving:
            self._moving.add(number)
            if number in self._away:
                await services.members.join(person.user_id, room.room_id)
            else:
                await services.members.leave(person.user_id, room)
            self._away ^= {number}
            self._moving.remove(number)


async def replay(
    config: Config, events: int, members: int, tell: Callable[[str], None], days: int = DAYS
) -> Replayed:
    """Live so many days until the room has so many events; then stop the server and measure."""
    clock = FakeClock()
    app = App(config, clock)
    await app.start()
    began, cpu = time.monotonic(), time.process_time()
    try:
        people = [await _person(app, n) for n in range(members)]
        services = app.services
        new = NewRoom(preset="public_chat", name="Busy", topic="A room with much to say")
        room_id = await services.create_room(people[0].user_id, {"displayname": "Ada"}, new)
        room = await services.rooms.known(room_id)
        for person in people[1:]:
            await services.members.join(person.user_id, room.room_id)
        life = _Life(app, room, people, Traffic(members))
        pause = days * 86_400 / events * _AT_ONCE
        told = 0
        while (done := await services.rooms.read(room, lambda head: head.depth)) < events:
            await asyncio.gather(*(life.act() for _ in range(_AT_ONCE)))
            await clock.advance(pause)
            if done - told >= events // 5:
                told = done
                tell(f"{done} events")
    finally:
        await app.stop()
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    database = await open_database(database_settings(config))
    try:
        count, json_bytes = await _event_bytes(database)
        return Replayed(count, json_bytes, seconds, cpu, await sizes(database))
    finally:
        await database.close()


async def _person(app: App, number: int) -> Session:
    services = app.services
    made = await services.accounts.create(
        NewAccount(f"member{number}", displayname=f"Member {number}", device=DeviceRequest())
    )
    assert made.session is not None
    return await services.sessions.authenticate(made.session.access_token, _Here())


class _Here:
    """Where the members come from."""

    remote = "127.0.0.1"


async def _event_bytes(database: Database) -> tuple[int, int]:
    """The number of events, and the bytes of their canonical JSON."""
    count = total = first = 0
    ((last,),) = await database.scan("SELECT max(event_nid) FROM events")
    for first in range(1, last + 1, 1_000):
        found = await event_json(database, range(first, first + 1_000))
        count += len(found)
        total += sum(map(len, found.values()))
    return count, total


def configuration(folder: Path, dsn: str | None) -> Config:
    """The configuration of the server: durable as in production, no listeners."""
    url = "sqlite:homeserver.db"
    if dsn is not None:
        url = "postgresql://?" + urlencode(conninfo_to_dict(dsn))
    document: dict[str, Any] = {
        "server": {"name": SERVER, "data_dir": str(folder)},
        "database": {"url": url},
        "registration": {"mode": "open"},
        "passwords": {"cost": "cheap"},
    }
    return replace(Config.read(document, "the benchmark", folder, {}), listeners=())


@click.command()
@click.option(
    "--database", type=click.Choice(["sqlite", "postgresql"]), default="sqlite", show_default=True
)
@click.option("--events", default=200_000, show_default=True)
@click.option("--members", default=1_000, show_default=True)
@click.option("--keep", type=click.Path(path_type=Path), help="Leave the SQLite database here.")
def main(database: str, events: int, members: int, keep: Path | None) -> None:
    """Measure what a busy room takes on disk."""
    logging.getLogger("homeserver").setLevel(logging.ERROR)
    with ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        dsn = None
        if database == "postgresql":
            server = PostgresServer()
            stack.callback(server.stop)
            dsn = server.blank_database()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(
                replay(
                    configuration(folder, dsn),
                    events,
                    members,
                    lambda text: click.echo(text, err=True),
                )
            )
    click.echo(
        f"{found.events} events, {found.json_bytes} bytes of JSON"
        f" ({found.json_bytes // found.events} each), made in {found.seconds:.0f} s"
        f" ({1000 * found.cpu_seconds / found.events:.2f} ms of CPU each)"
    )
    for table in found.sizes.tables:
        share = (table.own + table.indexes) / found.json_bytes
        click.echo(f"{table.table:20}{table.own:14}{table.indexes:14}{share:9.4f}")
    for kind, number in found.sizes.kinds.items():
        click.echo(f"{kind:20}{number:14}{number / found.json_bytes:9.4f}")
    click.echo(f"{'whole':20}{found.sizes.total:14}{found.ratio:9.4f}")


if __name__ == "__main__":
    main()
