"""kill -9 at each step of a transaction, of who receives it and of who sends it.

Afterwards every message to a device has come down its sync once and in order, every event is in the
room once, every change of the list of devices was told, and nothing waits in any table.
spec: server-server-api#transactions
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest
import trustme

from tests.api.test_keys import Device
from tests.crash.test_push_killed import execute
from tests.databases import PostgresServer
from tests.federation.dying import RECEIVING, SENDING
from tests.federation.house import House, HouseServer, house, until
from tests.processes import DidNotStart, postgresql_url
from tests.serving import Person

A, B = "a.example", "b.example"
LIMIT = 120.0
T = TypeVar("T")

FEW_RECEIVING = ("after messages committed", "before the answer")
FEW_SENDING = ("after messages queued", "answered")


async def insist(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until the server is there to answer, as clients do: with the same transaction id."""
    while True:
        try:
            return await ask()
        except aiohttp.ClientError:
            await asyncio.sleep(0.05)


async def start_dying(server: HouseServer, step: str) -> None:
    """Start a server that kills itself at a step, which may be soon."""
    server.wrapper = ("-m", "tests.federation.dying", step)
    try:
        await asyncio.to_thread(server.start)
    except DidNotStart as error:
        if "status -9" not in str(error):
            raise
    finally:
        server.wrapper = ()


class Story:
    """Alice tells Bob of another server things of all kinds, numbered, round by round."""

    def __init__(self, made: House, alice: Person, bob: Person, room_id: str) -> None:
        self.made = made
        self.alice = alice
        self.bob = bob
        self.room_id = room_id
        self.rounds = itertools.count()
        self.told = 0
        self.heard: list[int] = []
        self.changed = 0
        """How many of Bob's syncs said that Alice's devices have changed."""

    async def tell(self) -> None:
        """A message to the device, an event, another name of her device, and both again."""
        number = next(self.rounds)
        await self._message(2 * number)
        await self._say(2 * number)
        name = {"display_name": f"Phone {number}"}
        await insist(lambda: self.alice.ok("PUT", f"/devices/{self.alice.device_id}", body=name))
        await self._message(2 * number + 1)
        await self._say(2 * number + 1)
        self.told = number + 1

    async def _message(self, number: int) -> None:
        body = {"messages": {self.bob.user_id: {self.bob.device_id: {"number": number}}}}
        await insist(lambda: self.alice.ok("PUT", f"/sendToDevice/m.test/d{number}", body=body))

    async def _say(self, number: int) -> None:
        await insist(lambda: self.alice.say(self.room_id, f"{number}", f"e{number}"))

    async def hear(self) -> None:
        """Have Bob sync until all that was told so far has come; the list before the message."""
        before = self.changed

        async def all_there() -> bool:
            answer = await insist(lambda: self.bob.sync(timeout=1_000))
            for event in answer.get("to_device", {}).get("events", ()):
                self.heard.append(event["content"]["number"])
            changed = answer.get("device_lists", {}).get("changed", ())
            self.changed += self.alice.user_id in changed
            return len(self.heard) >= 2 * self.told

        await until(all_there, LIMIT)
        assert self.heard == list(range(2 * self.told))
        assert self.changed > before

    async def wake(self) -> None:
        """Whatever a server sends ends the pause that it was given."""
        servers = self.made.servers
        target = "/_matrix/federation/v1/query/profile?user_id=" + self.alice.user_id
        await self.made.request_as(servers[B], servers[A], "GET", target)

    async def prove(self) -> None:
        """All of it is there once, and neither server keeps anything of it for later."""
        await self.tell()
        await self.wake()
        await self.hear()
        everything = [f"{number}" for number in range(2 * self.told)]

        async def said() -> bool:
            found: list[str] = []
            page: dict[str, Any] = {"dir": "b", "limit": 100}
            while True:
                path = f"/rooms/{self.room_id}/messages"
                answer = await self.bob.ok("GET", path, query=page)
                found += [
                    event["content"]["body"]
                    for event in answer["chunk"]
                    if event["type"] == "m.room.message"
                ]
                if "end" not in answer:
                    break
                page["from"] = answer["end"]
            assert len(found) == len(set(found))
            return found[::-1] == everything

        await until(said, LIMIT)
        await until(self._known, LIMIT)
        servers = self.made.servers
        for server, table in ((servers[A], "edu_outbox"), (servers[B], "inbound_pdus")):

            async def empty(server: HouseServer = server, table: str = table) -> bool:
                return not execute(server, f"SELECT 1 FROM {table} LIMIT 1")

            await until(empty, LIMIT)
        for server in servers.values():
            await asyncio.to_thread(server.stop)
            checked = await asyncio.to_thread(server.check)
            assert checked.returncode == 0, checked.stdout + checked.stderr

    async def _known(self) -> bool:
        """Whether Bob is shown Alice's device under its last name."""
        query: dict[str, Any] = {"device_keys": {self.alice.user_id: []}}
        answer = await self.bob.ok("POST", "/keys/query", body=query)
        shown = answer["device_keys"].get(self.alice.user_id, {}).get(self.alice.device_id, {})
        name = shown.get("unsigned", {}).get("device_display_name")
        return bool(name == f"Phone {self.told - 1}")


@pytest.fixture(params=["sqlite", "postgresql"])
async def story(
    request: pytest.FixtureRequest, authority: trustme.CA, tmp_path: Path
) -> AsyncIterator[Story]:
    """Alice and Bob in an encrypted room of two servers on one kind of database."""
    async with house(authority, tmp_path) as made:
        for name in (A, B):
            database = None
            if request.param == "postgresql":
                postgres: PostgresServer = request.getfixturevalue("postgres")
                database = postgresql_url(postgres.blank_database())
            made.server(name, database)
        a, b = await made.start(A, B)
        alice, bob = await a.person("alice"), await b.person("bob")
        device = Device(alice)
        await device.upload(device_keys=device.keys)
        encryption = {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1"}}
        room_id = await alice.create_room(preset="public_chat", initial_state=[encryption])
        await bob.ok("POST", f"/join/{room_id}", query={"via": A}, body={})
        made_story = Story(made, alice, bob, room_id)
        await bob.sync()
        await made_story.tell()
        await made_story.hear()
        yield made_story


async def receiver_dies(story: Story, steps: Iterable[str]) -> None:
    """What was told while the receiver was down comes in one transaction, which kills it again."""
    server = story.made.servers[B]
    for step in steps:
        server.kill()
        await story.tell()
        await start_dying(server, step)

        async def dead() -> bool:
            with suppress(aiohttp.ClientError):
                await story.wake()
            return not server.running

        await until(dead, LIMIT)
    await asyncio.to_thread(server.start)
    await story.wake()
    await story.hear()


async def sender_dies(story: Story, steps: Iterable[str]) -> None:
    """She goes on telling, and he hears all of a round before the next."""
    server = story.made.servers[A]
    ended = False

    async def go_on() -> None:
        while not ended:
            await story.tell()
            await story.hear()

    async with asyncio.TaskGroup() as group:
        group.create_task(go_on())
        server.kill()
        for step in steps:
            await start_dying(server, step)

            async def dead() -> bool:
                return not server.running

            await until(dead, LIMIT)
        await asyncio.to_thread(server.start)
        ended = True


@pytest.mark.parametrize("story", ["sqlite"], indirect=True)
async def test_nothing_is_lost_or_doubled_at_some_steps(story: Story) -> None:
    await receiver_dies(story, FEW_RECEIVING)
    await sender_dies(story, FEW_SENDING)
    await story.prove()


@pytest.mark.long
@pytest.mark.timeout(1_200)
async def test_whoever_receives_loses_and_doubles_nothing(story: Story) -> None:
    await receiver_dies(story, RECEIVING)
    await story.prove()


@pytest.mark.long
@pytest.mark.timeout(1_200)
async def test_whoever_sends_loses_and_doubles_nothing(story: Story) -> None:
    await sender_dies(story, SENDING)
    await story.prove()
