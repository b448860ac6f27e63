"""A long talk in an encrypted room of two servers, through all that may happen meanwhile.

Four people stay, two on each server, one of each SDK; two guests are invited, enter and leave
while the others talk. Both servers are killed, and one of them is away for a while. Everybody must
read all that was said while they belonged to the room: the history is for who was invited.

Both servers are ours, on either database, or one is Synapse: that of the room's creator, or the one
that is away. Synapse tells clients old state as new (see `Undeceived`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import aiohttp
import nio
import pytest
import trustme

from tests.clients.encrypting import (
    ROOM_ENCRYPTION,
    Device,
    People,
    Programs,
    knows,
    reads,
)
from tests.clients.js_person import JsPerson
from tests.databases import PostgresServer
from tests.federation.servers import FederatedServer, FederatedSynapse, Peer
from tests.processes import Server, postgresql_url, running
from tests.synapse_env import SynapseUnavailable, synapse_python

ROOM_HISTORY = {
    "type": "m.room.history_visibility",
    "state_key": "",
    "content": {"history_visibility": "invited"},
}

Anybody = Device | JsPerson


class Talk:
    """The room, who is in it, and what was said there."""

    def __init__(self, room_id: str, staying: list[Anybody], each: int) -> None:
        """Everybody says `each` things in a round."""
        self.room_id = room_id
        self.present = list(staying)
        self.said = 0
        self._each = each
        self._spoken: dict[Anybody, list[str]] = {}

    async def speak(self, *speakers: Anybody) -> None:
        """Each of these, or of all who are there, says what is theirs in this round, at once."""
        async with asyncio.TaskGroup() as group:
            for speaker in speakers or self.present:
                group.create_task(self._speak(speaker))

    async def _speak(self, speaker: Anybody) -> None:
        for _ in range(self._each):
            self.said += 1
            text = f"{self.said} by {speaker.user_id}"
            self._spoken.setdefault(speaker, []).append(text)
            await speaker.say(self.room_id, text)

    async def all_read(self) -> None:
        """Everybody who is there has read what was said in this round."""
        async with asyncio.TaskGroup() as group:
            for reader in self.present:
                others = [
                    text
                    for speaker, texts in self._spoken.items()
                    for text in texts
                    if speaker is not reader
                ]
                group.create_task(self._read(reader, others))
        self._spoken.clear()

    async def _read(self, reader: Anybody, texts: list[str]) -> None:
        if isinstance(reader, JsPerson):
            await reads(reader, self.room_id, *texts)
            return
        with noted(lambda: f"{reader.user_id} lacks {set(texts) - set(reader.read)}"):
            await reader.until(lambda: set(texts) <= set(reader.read))

    async def unreadable(self, *readers: Anybody) -> int:
        """How many messages these could not read."""
        count = 0
        for reader in readers:
            if isinstance(reader, JsPerson):
                count += sum(one["body"] is None for one in await reader.readings(self.room_id))
            else:
                count += len(reader.unread)
        return count

    async def acquainted(self) -> None:
        """Everybody has the devices of all others."""
        for one in self.present:
            for other in self.present:
                if one is not other:
                    await _known(one, other)

    async def invite(self, host: Device, guest: Anybody) -> None:
        """Invite somebody; returns when everybody will encrypt for them."""
        answer = await host.client.room_invite(self.room_id, guest.user_id)
        assert isinstance(answer, nio.RoomInviteResponse), answer
        for one in self.present:
            await self._sees(one, guest, "invite")
            await _known(one, guest)

    async def enter(self, guest: Anybody) -> None:
        """An invited guest enters."""
        if isinstance(guest, JsPerson):
            await guest.until(self.room_id, lambda view: view.membership == "invite")
            await guest.join(self.room_id)
        else:
            await guest.until(lambda: self.room_id in guest.client.invited_rooms)
            answer = await guest.client.join(self.room_id)
            assert isinstance(answer, nio.JoinResponse), answer
        self.present.append(guest)

    async def leave(self, guest: Anybody) -> None:
        """Somebody goes."""
        self.present.remove(guest)
        self._spoken.pop(guest, None)
        if isinstance(guest, JsPerson):
            await guest.leave(self.room_id)
        else:
            answer = await guest.client.room_leave(self.room_id)
            assert isinstance(answer, nio.RoomLeaveResponse), answer

    async def met(self) -> None:
        """Everybody sees everybody in the room, and has their devices."""
        for one in self.present:
            for other in self.present:
                await self._sees(one, other, "join")
        await self.acquainted()

    async def gone(self, guest: Anybody) -> None:
        """Nobody sees them there any more."""
        for one in self.present:
            await self._sees(one, guest, None)

    async def _sees(self, one: Anybody, other: Anybody, membership: str | None) -> None:
        user_id = other.user_id
        if isinstance(one, JsPerson):
            await one.until(
                self.room_id,
                lambda view: (
                    membership == view.members[user_id].membership
                    if membership
                    else view.members[user_id].membership == "leave"
                ),
            )
            return

        def seen() -> bool:
            room = one.client.rooms.get(self.room_id)
            user = room.users.get(user_id) if room is not None else None
            if user is None:
                return room is not None and membership is None
            return membership == ("invite" if user.invited else "join")

        await one.until(seen)


async def _known(one: Anybody, other: Anybody) -> None:
    device_id = (
        await other.device_id() if isinstance(other, JsPerson) else str(other.client.device_id)
    )
    with noted(lambda: f"{one.user_id} lacks the device {device_id} of {other.user_id}"):
        if isinstance(one, JsPerson):
            await knows(one, other.user_id, device_id)
        else:
            await one.knows_device(other.user_id, device_id)


@contextmanager
def noted(what: Callable[[], str]) -> Iterator[None]:
    """Say what was waited for, if it does not come."""
    try:
        yield
    except TimeoutError as error:
        error.add_note(what())
        raise


@pytest.fixture
async def servers(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[dict[str, Peer]]:
    """Two homeservers, `a` and `b`, each of a kind that the parameter names."""
    authority = trustme.CA()

    def made(side: str, kind: str) -> Server:
        folder = tmp_path / side
        if kind == "synapse":
            try:
                synapse_python()
            except SynapseUnavailable as error:
                pytest.fail(str(error))
            return FederatedSynapse(folder, authority)
        if kind == "sqlite":
            return FederatedServer(folder, authority)
        postgres: PostgresServer = request.getfixturevalue("postgres")
        return FederatedServer(folder, authority, postgresql_url(postgres.blank_database()))

    async with AsyncExitStack() as stack:
        timeout = aiohttp.ClientTimeout(total=60)
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        peers = {}
        for side, kind in zip("ab", request.param, strict=True):
            server = stack.enter_context(running(made(side, kind)))
            peers[side] = Peer(server, http)
        yield peers


@pytest.fixture
async def programs(servers: dict[str, Peer], tmp_path: Path) -> AsyncIterator[Programs]:
    async with AsyncExitStack() as stack:
        yield Programs(servers, tmp_path, stack)


@pytest.fixture
async def people(servers: dict[str, Peer], tmp_path: Path) -> AsyncIterator[People]:
    async with AsyncExitStack() as stack:
        yield People(servers, tmp_path / "programs", stack)


async def _restarted(server: Server) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)


async def _found(talk: Talk, servers: dict[str, Peer], *speakers: Device) -> None:
    """Have events on both servers that name all ends of the room, where one is Synapse.

    After an outage, or a kill, Synapse sends one of its events in a room, though several may stand
    beside each other at its end; of the others a server hears by the next event, which names them.
    """
    if any(server.kind == "synapse" for server in servers.values()):
        for speaker in speakers:
            await talk.speak(speaker)


LONG = [pytest.mark.long, pytest.mark.timeout(3_600)]


@pytest.mark.parametrize(
    "servers",
    [
        ("sqlite", "sqlite"),
        pytest.param(("postgresql", "postgresql"), marks=LONG),
        pytest.param(("sqlite", "synapse"), marks=LONG),
        pytest.param(("synapse", "postgresql"), marks=LONG),
    ],
    indirect=True,
    ids="-".join,
)
@pytest.mark.parametrize(("messages", "away"), [(200, 0.0), pytest.param(2_000, 30.0, marks=LONG)])
async def test_nothing_is_unreadable(
    servers: dict[str, Peer], programs: Programs, people: People, messages: int, away: float
) -> None:
    alice = await people.device("alice", "a")
    bob = await people.device("bob", "b")
    carol = await programs.device("carol", "a")
    dora = await programs.device("dora", "b")
    gwen = await people.device("gwen", "b")
    hugo = await programs.device("hugo", "a")
    staying: list[Anybody] = [alice, bob, carol, dora]
    answer = await alice.client.room_create(
        preset=nio.RoomPreset.private_chat, initial_state=[ROOM_ENCRYPTION, ROOM_HISTORY]
    )
    assert isinstance(answer, nio.RoomCreateResponse), answer
    await alice.in_room(answer.room_id, 1)
    talk = Talk(answer.room_id, [alice], max(1, messages // 200))
    for one in staying[1:]:
        await talk.invite(alice, one)
        await talk.enter(one)
        await talk.met()

    kills = iter(("a", "b"))
    outage = True
    while talk.said < messages:
        # They enter while the others talk.
        for guest in (gwen, hugo):
            await talk.invite(alice, guest)
        async with asyncio.TaskGroup() as group:
            group.create_task(talk.speak(*staying))
            group.create_task(talk.enter(gwen))
            group.create_task(talk.enter(hugo))
        await talk.all_read()
        await talk.met()

        # All have claimed keys of all others before a server is away: matrix-nio tries it once.
        await talk.speak()
        await talk.all_read()

        # Half of all that is said is said: one server is away while those of the other go on.
        if outage and talk.said >= messages // 2:
            server = servers["b"].server
            await asyncio.to_thread(server.kill)
            waiting = asyncio.create_task(talk.speak(bob, dora, gwen))
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(away))
                group.create_task(talk.speak(alice, carol, hugo))
            await asyncio.to_thread(server.start)
            await waiting
            await _found(talk, servers, alice, bob)
            await talk.all_read()
            outage = False

        # They leave while the others talk, who make new sessions then; and a server dies.
        async with asyncio.TaskGroup() as group:
            group.create_task(talk.speak(*staying))
            group.create_task(talk.leave(gwen))
            group.create_task(talk.leave(hugo))
        async with asyncio.TaskGroup() as group:
            group.create_task(talk.speak(*staying))
            if (name := next(kills, None)) is not None:
                await _restarted(servers[name].server)
        await _found(talk, servers, alice, bob)
        await talk.all_read()
        for guest in (gwen, hugo):
            await talk.gone(guest)
    assert await talk.unreadable(*staying, gwen, hugo) == 0
