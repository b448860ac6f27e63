"""Encrypted rooms of people whose programs really encrypt: matrix-nio with vodozemac.

Owns no claim on the cryptography: what is asserted is that every message is read by everybody in
the room, so no key, list of devices or one-time key was lost, late, or given out twice.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import nio
import pytest
import trustme

from tests.federation.house import House, HouseServer, house, until
from tests.serving import PASSWORD

ROOM_ENCRYPTION = {
    "type": "m.room.encryption",
    "state_key": "",
    "content": {"algorithm": "m.megolm.v1.aes-sha2"},
}


# Nobody is shown what was said before they came, which they could not read.
ROOM_HISTORY = {
    "type": "m.room.history_visibility",
    "state_key": "",
    "content": {"history_visibility": "joined"},
}


class Device:
    """One device of a person; `read` are the texts it could read, `unread` events it could not."""

    def __init__(self, server: HouseServer, username: str, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True)
        self.url = server.url
        self.user_id = f"@{username}:{server.name}"
        self.read: list[str] = []
        self.unread: list[str] = []
        self._loop: asyncio.Task[None] | None = None
        self.client = self._made()

    def _made(self) -> nio.AsyncClient:
        config = nio.AsyncClientConfig(
            encryption_enabled=True, store_sync_tokens=True, max_timeout_retry_wait_time=1
        )
        client = nio.AsyncClient(self.url, self.user_id, store_path=str(self.folder), config=config)
        client.add_event_callback(self._could_read, nio.RoomMessageText)
        client.add_event_callback(self._could_not_read, nio.MegolmEvent)
        return client

    async def login(self, name: str) -> None:
        answer = await self.client.login(PASSWORD, device_name=name)
        assert isinstance(answer, nio.LoginResponse), answer
        await self.begin()
        # What was said before there was this device is not for it.
        self.unread.clear()

    async def begin(self) -> None:
        """Sync from now on; returns when the first answer is there and the keys are uploaded."""
        self._loop = asyncio.create_task(self.client.sync_forever(timeout=10_000, full_state=True))
        await self.client.synced.wait()

    async def restart(self) -> None:
        """End the program and start it on what it has stored."""
        session = (self.client.user_id, self.client.device_id, self.client.access_token)
        await self.quit()
        self.client = self._made()
        self.client.restore_login(*session)
        await self.begin()

    async def quit(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop
        await self.client.close()

    async def say(self, room_id: str, text: str) -> None:
        content = {"msgtype": "m.text", "body": text}
        answer = await self.client.room_send(
            room_id, "m.room.message", content, ignore_unverified_devices=True
        )
        assert isinstance(answer, nio.RoomSendResponse), answer

    async def reads(self, text: str) -> None:
        """Wait until the device has read this."""
        await self.until(lambda: text in self.read)

    async def until(self, check: Callable[[], bool]) -> None:
        async def checked() -> bool:
            assert self.unread == [], f"{self.user_id} can't read {self.unread}"
            return check()

        await until(checked, 60)

    async def in_room(self, room_id: str, members: int) -> None:
        """Wait until the program knows so many members, and that the room is encrypted."""

        def there() -> bool:
            room = self.client.rooms.get(room_id)
            return room is not None and room.encrypted and len(room.users) == members

        await self.until(there)

    async def knows(self, other: "Device") -> None:
        """Wait until the program knows another's device."""

        def known() -> bool:
            return any(
                device.id == other.client.device_id
                for device in self.client.device_store.active_user_devices(other.user_id)
            )

        await self.until(known)

    def _could_read(self, room: nio.MatrixRoom, event: nio.RoomMessageText) -> None:
        self.read.append(event.body)

    def _could_not_read(self, room: nio.MatrixRoom, event: nio.MegolmEvent) -> None:
        self.unread.append(event.event_id)


class People:
    """Makes accounts and devices, and ends them."""

    def __init__(self, made: House, folder: Path, stack: AsyncExitStack) -> None:
        self._made = made
        self._folder = folder
        self._stack = stack
        self._count = 0

    async def device(self, username: str, server: str, *, new: bool = True) -> Device:
        self._count += 1
        where = self._made.servers[server]
        if new:
            await where.person(username)
        device = Device(where, username, self._folder / f"device{self._count}")
        self._stack.push_async_callback(device.quit)
        await device.login(f"Device {self._count}")
        return device


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[House]:
    """Two servers, a.example and b.example."""
    async with house(trustme.CA(), tmp_path) as one:
        await one.start("a.example", "b.example")
        yield one


@pytest.fixture
async def people(made: House, tmp_path: Path) -> AsyncIterator[People]:
    async with AsyncExitStack() as stack:
        yield People(made, tmp_path / "programs", stack)


async def together(*devices: Device) -> str:
    """An encrypted room that all of them are in and know of each other."""
    first, *others = devices
    answer = await first.client.room_create(
        preset=nio.RoomPreset.private_chat,
        invite=[other.user_id for other in others],
        initial_state=[ROOM_ENCRYPTION, ROOM_HISTORY],
    )
    assert isinstance(answer, nio.RoomCreateResponse), answer
    for other in others:
        await enter(other, answer.room_id)
    for device in devices:
        await device.in_room(answer.room_id, len(devices))
    return str(answer.room_id)


async def enter(device: Device, room_id: str) -> None:
    await device.until(lambda: room_id in device.client.invited_rooms)
    answer = await device.client.join(room_id)
    assert isinstance(answer, nio.JoinResponse), answer


async def acquainted(*devices: Device) -> None:
    """Wait until each knows all others."""
    for one in devices:
        for other in devices:
            if one is not other:
                await one.knows(other)


async def all_heard(room_id: str, *devices: Device) -> None:
    """Each says something, and all others read it."""
    for speaker in devices:
        text = f"{speaker.client.device_id} {len(speaker.read)}"
        await speaker.say(room_id, text)
        for other in devices:
            if other is not speaker:
                await other.reads(text)


@pytest.mark.parametrize("server", ["a.example", "b.example"])
async def test_everybody_reads_everything(made: House, people: People, server: str) -> None:
    """Through a new member, a new device, a program's restart and a server's death."""
    alice = await people.device("alice", "a.example")
    bob = await people.device("bob", server)
    room_id = await together(alice, bob)
    await acquainted(alice, bob)
    await all_heard(room_id, alice, bob)
    carol = await people.device("carol", "a.example")
    await alice.client.room_invite(room_id, carol.user_id)
    await enter(carol, room_id)
    for device in (alice, bob, carol):
        await device.in_room(room_id, 3)
    await acquainted(alice, bob, carol)
    await all_heard(room_id, alice, bob, carol)
    tablet = await people.device("bob", server, new=False)
    await tablet.in_room(room_id, 3)
    await acquainted(alice, carol, tablet)
    await bob.knows(tablet)
    await all_heard(room_id, alice, bob, carol, tablet)
    await alice.restart()
    await asyncio.to_thread(made.servers[server].kill)
    await asyncio.to_thread(made.servers[server].start)
    await all_heard(room_id, bob, alice, tablet, carol)
