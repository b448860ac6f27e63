"""Devices whose programs really encrypt, and what their people do with them.

Owns `Device`, made with matrix-nio and vodozemac, and what starts those and the programs of
matrix-js-sdk (`JsPerson`) on whichever servers there are. A device that finds a message which it
can't read, though its account was there, fails its test.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import nio
from nio.crypto import GroupSessionStore, InboundGroupSession
from nio.exceptions import GroupEncryptionError

from tests.clients.js_person import JsPerson
from tests.federation.house import until
from tests.serving import PASSWORD, Person

ROOM_ENCRYPTION = {
    "type": "m.room.encryption",
    "state_key": "",
    "content": {"algorithm": "m.megolm.v1.aes-sha2"},
}

SYNC_FILTER = {"room": {"timeline": {"limit": 200}}}

# Nobody is shown what was said before they came, which they could not read.
ROOM_HISTORY = {
    "type": "m.room.history_visibility",
    "state_key": "",
    "content": {"history_visibility": "joined"},
}


class Where(Protocol):
    """A homeserver of any kind, as programs reach it."""

    @property
    def kind(self) -> str: ...

    @property
    def url(self) -> str: ...

    @property
    def name(self) -> str: ...

    async def person(self, localpart: str) -> Person:
        """A new account."""


class Sessions(GroupSessionStore):  # type: ignore[misc]
    """Keys of messages; of two copies of a session the one that reads more stays, as in Rust.

    matrix-nio takes the later copy. Rust's cryptography sends a session once more, from the index
    that it has come to, when both devices have begun an Olm session at the same time.
    """

    def add(self, session: InboundGroupSession) -> bool:
        """Whether the session is new or better than what was there."""
        known = self.get(session.room_id, session.sender_key, session.id)
        if known is not None and known.first_known_index <= session.first_known_index:
            return False
        return bool(super().add(session))


class Undeceived(nio.AsyncClient):  # type: ignore[misc]
    """Passes over state that it was told before.

    Where branches of a room meet, Synapse's /sync gives as new state what was true on one of them,
    though what has replaced it was told long ago: who was invited and has joined is an invited one
    again, and who has left is back. Synapse's own /state says otherwise. MSC4222 mends that, which
    matrix-js-sdk asks for and matrix-nio does not.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._told: set[str] = set()

    async def receive_response(self, response: nio.Response) -> None:
        if isinstance(response, nio.SyncResponse):
            for room in response.rooms.join.values():
                room.state[:] = [one for one in room.state if one.event_id not in self._told]
                self._told.update(one.event_id for one in (*room.state, *room.timeline.events))
        await super().receive_response(response)


class Device:
    """One device of a person; `read` are the texts it could read, `unread` events it could not."""

    def __init__(self, server: Where, username: str, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True)
        self.url = server.url
        self._client = Undeceived if server.kind == "synapse" else nio.AsyncClient
        self.user_id = f"@{username}:{server.name}"
        self.read: list[str] = []
        self.unread: list[str] = []
        self._loop: asyncio.Task[None] | None = None
        self.client = self._made()

    def _made(self) -> nio.AsyncClient:
        config = nio.AsyncClientConfig(
            encryption_enabled=True, store_sync_tokens=True, max_timeout_retry_wait_time=1
        )
        client = self._client(self.url, self.user_id, store_path=str(self.folder), config=config)
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
        sessions = Sessions()
        for session in self.client.olm.inbound_group_store:
            sessions.add(session)
        self.client.olm.inbound_group_store = sessions
        syncing = self.client.sync_forever(timeout=10_000, sync_filter=SYNC_FILTER, full_state=True)
        self._loop = asyncio.create_task(syncing)
        await self.client.synced.wait()

    async def restart(self) -> None:
        """End the program and start it on what it has stored."""
        session = (self.client.user_id, self.client.device_id, self.client.access_token)
        await self.quit()
        self.client = self._made()
        self.client.restore_login(*session)
        await self.begin()

    async def log_out(self) -> None:
        """End the device's session, and the program."""
        answer = await self.client.logout()
        assert isinstance(answer, nio.LogoutResponse), answer
        await self.quit()

    async def quit(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop
        await self.client.close()

    async def say(self, room_id: str, text: str) -> None:
        content = {"msgtype": "m.text", "body": text}
        while True:
            # The session that the SDK was about to use is gone when a member leaves meanwhile.
            with contextlib.suppress(KeyError, GroupEncryptionError):
                answer = await self.client.room_send(
                    room_id, "m.room.message", content, ignore_unverified_devices=True
                )
                break
        assert isinstance(answer, nio.RoomSendResponse), answer

    async def reads(self, text: str) -> None:
        """Wait until the device has read this."""
        await self.until(lambda: text in self.read)

    async def until(self, check: Callable[[], bool]) -> None:
        async def checked() -> bool:
            assert self.unread == [], f"{self.user_id} can't read {self.unread}"
            return check()

        await until(checked, 90)

    async def in_room(self, room_id: str, members: int) -> None:
        """Wait until the program knows so many members, and that the room is encrypted."""

        def there() -> bool:
            room = self.client.rooms.get(room_id)
            return room is not None and room.encrypted and len(room.users) == members

        await self.until(there)

    async def knows(self, other: "Device") -> None:
        """Wait until the program knows another's device."""
        await self.knows_device(other.user_id, str(other.client.device_id))

    async def knows_device(self, user_id: str, device_id: str) -> None:
        """Wait until the program knows a device, of any program."""

        def known() -> bool:
            devices = self.client.device_store.active_user_devices(user_id)
            return any(device.id == device_id for device in devices)

        await self.until(known)

    def _could_read(self, room: nio.MatrixRoom, event: nio.RoomMessageText) -> None:
        self.read.append(event.body)

    def _could_not_read(self, room: nio.MatrixRoom, event: nio.MegolmEvent) -> None:
        self.unread.append(f"{event.event_id} of {event.sender}")


class People:
    """Makes accounts and devices, and ends them."""

    def __init__(self, servers: Mapping[str, Where], folder: Path, stack: AsyncExitStack) -> None:
        self._servers = servers
        self._folder = folder
        self._stack = stack
        self._count = 0

    async def device(self, username: str, server: str, *, new: bool = True) -> Device:
        self._count += 1
        number, where = self._count, self._servers[server]
        if new:
            await where.person(username)
        device = Device(where, username, self._folder / f"device{number}")
        self._stack.push_async_callback(device.quit)
        await device.login(f"Device {number}")
        return device


class Programs:
    """Starts programs of matrix-js-sdk, and ends them."""

    def __init__(self, servers: Mapping[str, Where], folder: Path, stack: AsyncExitStack) -> None:
        self._servers = servers
        self._log = folder / "js.log"
        self._stack = stack

    async def device(self, username: str, server: str, *, new: bool = True) -> JsPerson:
        person = JsPerson(self._servers[server].url, self._log)
        self._stack.push_async_callback(person.quit)
        await person.open()
        if new:
            await person.register(username)
        await person.login(username)
        await person.encrypt()
        await person.start()
        return person


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


async def reads(person: JsPerson, room_id: str, *texts: str) -> None:
    """Wait until a program has read these; nothing that it was there for may stay unread."""

    async def read() -> bool:
        bodies = {event["body"] for event in await person.readings(room_id)}
        return bodies.issuperset(texts)

    await until(read, 90)
    unread = [event for event in await person.readings(room_id) if event["body"] is None]
    assert unread == []


async def knows(person: JsPerson, user_id: str, *device_ids: str) -> None:
    async def known() -> bool:
        return set(device_ids) <= set(await person.devices_of(user_id))

    await until(known, 60)


async def sees(person: JsPerson, room_id: str, members: int) -> None:
    """Wait until the program shows a room with so many joined members."""
    await person.until(
        room_id,
        lambda view: sum(one.membership == "join" for one in view.members.values()) == members,
    )


async def device_gone(witness: Device, user_id: str, device_id: str) -> None:
    """Wait until a program no longer encrypts for a device that was logged out."""

    def gone() -> bool:
        devices = witness.client.device_store.active_user_devices(user_id)
        return all(device.id != device_id for device in devices)

    await witness.until(gone)
