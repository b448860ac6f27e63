"""Whatever has happened: memory and tables tell the same, and clients end where the room is."""

import asyncio
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings

from homeserver.app import App
from homeserver.matrix.filters import Filter
from homeserver.runtime.clock import FakeClock
from homeserver.streams.asker import StateName
from homeserver.streams.sync import SyncRequest
from homeserver.users.sessions import Session
from storage.engine import DatabaseSettings
from tests.serving import Running, configure
from tests.streams.follower import Follower
from tests.streams.histories import Deed, Town, histories

LAZY = {"lazy_load_members": True}
REDUNDANT = {"lazy_load_members": True, "include_redundant_members": True}
BOB = "@bob:is.replaced"
MESSAGES = {"types": ["m.room.message"], "limit": 3}

# Filter, the name of the state section, whether its followers must know the whole state.
KINDS: dict[str, tuple[dict[str, Any], StateName, bool]] = {
    "plain": ({}, "state", True),
    "state after": ({"room": {"timeline": {"limit": 2}}}, "state_after", True),
    "limit 1": ({"room": {"timeline": {"limit": 1}}}, "state", True),
    "lazy": ({"room": {"timeline": {"limit": 2}, "state": LAZY}}, "state", True),
    "lazy after": (
        {"room": {"timeline": {"limit": 3}, "state": LAZY}},
        "org.matrix.msc4222.state_after",
        True,
    ),
    "redundant": ({"room": {"timeline": {"limit": 1}, "state": REDUNDANT}}, "state", True),
    "messages": ({"room": {"timeline": MESSAGES, "ephemeral": {"types": []}}}, "state", True),
    "no pictures": ({"room": {"timeline": {"contains_url": False, "limit": 4}}}, "state", True),
    "without bob": ({"room": {"timeline": {"not_senders": [BOB], "limit": 4}}}, "state", True),
    "after, without bob": (
        {"room": {"timeline": {"not_senders": [BOB], "limit": 2}, "include_leave": True}},
        "state_after",
        True,
    ),
    "some types": (
        {
            "room": {
                "state": {"types": ["m.room.n*"], "not_types": ["m.room.never"]},
                "account_data": {"not_types": ["m.tag"]},
                "ephemeral": {"not_types": ["m.typing"]},
            },
            "account_data": {"types": ["test.*"]},
        },
        "state",
        False,
    ),
    "federation": ({"event_format": "federation"}, "state", False),
    "fields": ({"event_fields": ["type", "content.body", "sender"]}, "state", False),
}


class Client:
    """A device that syncs with one kind of filter."""

    def __init__(self, running: Running, follower: Follower, session: Session, kind: str) -> None:
        self.kind = kind
        self.follower = follower
        self._sync = running.app.services.sync
        self._session = session
        _, self._state_name, self.whole = KINDS[kind]
        self._filter = Filter.parse(follower.filter)

    async def ask(self, *, stored: bool, since: str | None, full_state: bool = False) -> Any:
        request = SyncRequest(
            session=self._session,
            since=since,
            filter=self._filter,
            timeout=0,
            full_state=full_state,
            state_name=self._state_name,
            stored=stored,
        )
        return json.loads(await self._sync(request))

    async def sync(self) -> None:
        """Ask twice, compare, and go on from the answer."""
        since = self.follower.since
        from_memory = await self.ask(stored=False, since=since)
        from_tables = await self.ask(stored=True, since=since)
        assert from_memory == from_tables, self.kind
        if self.kind in ("federation", "fields"):
            self.follower.since = from_memory["next_batch"]
            return
        await self.follower.take(from_memory)

    async def check(self, *, history: bool) -> None:
        """What the client holds is what the server says."""
        full = [
            await self.ask(stored=stored, since=self.follower.since, full_state=True)
            for stored in (False, True)
        ]
        assert full[0] == full[1], self.kind
        if not self.whole:
            return
        follower = self.follower
        joined = await follower.person.ok("GET", "/joined_rooms")
        assert set(follower.rooms) == set(joined["joined_rooms"]), self.kind
        for room_id, room in follower.rooms.items():
            real = await follower.real_state(room_id)
            if "lazy" in self.kind or self.kind == "redundant":
                for sender in room.senders:
                    assert ("m.room.member", sender) in room.state, (self.kind, sender)
                held = {key for key in real if key[0] != "m.room.member" or key in room.state}
                real = {key: real[key] for key in held}
            assert room.state == real, self.kind
            # A redacted event contains no url any more: it shows up in history only later.
            if history and self.kind != "no pictures":
                whole = await follower.whole(room_id)
                assert whole == (await follower.page(room_id, None))[::-1], self.kind


@dataclass(frozen=True)
class _Here:
    remote: str


class House:
    """A server for all examples, each of which has its own people and rooms."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self._numbers = itertools.count(1)
        self._devices = itertools.count(1)

    async def play(self, history: list[Deed]) -> None:
        number = next(self._numbers)
        names = ("alice", "bob", "carol")
        people = [await self.running.person(f"{name}{number}") for name in names]
        town = Town(people)
        await town.settle()
        clients = [await self._clients(town, index) for index in range(len(people))]
        for deed in history:
            if deed[0] == "sync":
                for client in clients[deed[1]]:
                    await client.sync()
            else:
                await town.do(deed)
        for index, mine in enumerate(clients):
            for client in mine:
                await client.sync()
                await client.check(history=index not in town.ignoring)

    async def _clients(self, town: Town, index: int) -> list[Client]:
        person = town.people[index]
        sessions = self.running.app.services.sessions
        session = await sessions.authenticate(person.token, _Here("127.0.0.1"))
        made: list[Client] = []
        for kind, (kind_filter, _, _) in KINDS.items():
            filter_ = json.loads(json.dumps(kind_filter).replace(BOB, town.people[1].user_id))
            # Each is a device of its own, as lazy loading remembers what a device was told.
            device = replace(session, device_nid=1_000_000 + next(self._devices))
            made.append(Client(self.running, Follower(person, filter_), device, kind))
        return made


@contextmanager
def house(database: DatabaseSettings, folder: Path) -> Iterator[tuple[asyncio.Runner, House]]:
    """A server in a loop of its own, for a test that is no coroutine."""

    async def start() -> Running:
        clock = FakeClock()
        config = configure(database, folder, {})
        app = App(config, clock)
        await app.start()
        return Running(app, config, clock, aiohttp.ClientSession())

    async def stop(running: Running) -> None:
        await running.http.close()
        await running.app.stop()

    with asyncio.Runner() as runner:
        running = runner.run(start())
        try:
            yield runner, House(running)
        finally:
            runner.run(stop(running))


def compare(database: DatabaseSettings, folder: Path, examples: int) -> None:
    with house(database, folder) as (runner, town):

        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
        @given(histories)
        def each(history: list[Deed]) -> None:
            runner.run(town.play(history))

        each()


def test_memory_and_tables_agree_and_clients_end_where_the_room_is(
    database_settings: DatabaseSettings, tmp_path: Path
) -> None:
    compare(database_settings, tmp_path, 25)


@pytest.mark.long
def test_so_they_do_after_many_histories(
    database_settings: DatabaseSettings, tmp_path: Path
) -> None:
    compare(database_settings, tmp_path, 400)
