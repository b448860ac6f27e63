"""A bridge made with mautrix-python whose bot encrypts, without /sync: all that it knows of devices
comes in transactions. The other side is matrix-nio with vodozemac. spec: MSC3202, MSC4203, MSC4190
"""

import asyncio
import json
import pathlib
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme

if sys.platform != "linux" or sys.version_info >= (3, 13):
    pytest.skip("the library's libolm has no wheel here", allow_module_level=True)

from mautrix.api import Method, Path
from mautrix.appservice import AppService
from mautrix.appservice.state_store import ASStateStore
from mautrix.client import Client
from mautrix.client.state_store import MemoryStateStore
from mautrix.crypto import OlmMachine, StateStore
from mautrix.crypto.store import MemoryCryptoStore
from mautrix.types import (
    EncryptionAlgorithm,
    EventType,
    MessageType,
    RoomEncryptionStateEventContent,
    RoomID,
    TextMessageEventContent,
    UserID,
)

from tests.clients.encrypting import Device, People, acquainted, together
from tests.federation.house import House, HouseServer, house, until
from tests.processes import ROOT, free_port

# The library says `loop` to aiohttp, which would rather not hear it, and reads old fields.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*loop argument is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .* field in Megolm events:DeprecationWarning"),
]

BOT = UserID("@_irc_bot:a.example")


@pytest.fixture
async def made(tmp_path: pathlib.Path) -> AsyncIterator[House]:
    """One server."""
    async with house(trustme.CA(), tmp_path) as one:
        await one.start("a.example")
        yield one


class Remembered(ASStateStore, MemoryStateStore):
    """What a bridge keeps, for as long as it lives."""

    def __init__(self) -> None:
        ASStateStore.__init__(self)
        MemoryStateStore.__init__(self)


class OneRoom(StateStore):
    """The one encrypted room that the bot is in."""

    room: RoomID

    async def is_encrypted(self, room_id: RoomID) -> bool:
        return True

    async def get_encryption_info(self, room_id: RoomID) -> RoomEncryptionStateEventContent:
        return RoomEncryptionStateEventContent(algorithm=EncryptionAlgorithm.MEGOLM_V1)

    async def find_shared_rooms(self, user_id: UserID) -> list[RoomID]:
        return [self.room]


class SecretBridge:
    """Reads what is said where its bot is, and says things; keeps its keys while it is down."""

    def __init__(self, server: HouseServer, folder: pathlib.Path) -> None:
        self.port = free_port()
        self.read: list[str] = []
        self._server = server
        self.rooms = OneRoom()
        self._store = MemoryCryptoStore("", "pickle")
        self._events = Remembered()
        registration = folder / "irc.yaml"
        given = {
            "id": "irc",
            "url": f"http://127.0.0.1:{self.port}",
            "as_token": "as",
            "hs_token": "hs",
            "sender_localpart": "_irc_bot",
            "namespaces": {"users": [{"exclusive": True, "regex": "@_irc_.*"}]},
            "rate_limited": False,
            "org.matrix.msc3202": True,
            "io.element.msc4190": True,
        }
        registration.write_text(json.dumps(given))
        command = [sys.executable, "-m", "homeserver", "appservice", "add", str(registration)]
        subprocess.run([*command, "-c", str(server.config)], cwd=ROOT, check=True)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[OlmMachine]:
        service = AppService(
            self._server.url,
            "a.example",
            "as",
            "hs",
            "_irc_bot",
            "irc",
            state_store=self._events,
            encryption_events=True,
            default_http_retry_count=20,
        )
        client = Client(base_url=self._server.url, mxid=BOT, token="as", state_store=self._events)
        await client.create_device_msc4190(
            device_id=await self._store.get_device_id() or "", initial_display_name="bridge"
        )
        await self._store.put_device_id(client.device_id)
        crypto = OlmMachine(client, self._store, self.rooms)
        await crypto.load()
        service.otk_handler = crypto.handle_as_otk_counts
        service.device_list_handler = crypto.handle_as_device_lists
        service.to_device_handler = crypto.handle_as_to_device_event

        @service.matrix_event_handler
        async def handle(event: Any) -> None:
            if event.type == EventType.ROOM_MEMBER and event.state_key == BOT:
                await service.intent.ensure_joined(event.room_id)
            elif event.type == EventType.ROOM_ENCRYPTED and event.sender != BOT:
                clear = await crypto.decrypt_megolm_event(event)
                self.read.append(str(clear.content.body))

        service.synchronous_handlers = True
        await service.start("127.0.0.1", self.port)
        await crypto.share_keys()
        try:
            yield crypto
        finally:
            await service.stop()
            await client.api.session.close()

    async def say(self, crypto: OlmMachine, to: Device, text: str) -> None:
        room = self.rooms.room
        content = TextMessageEventContent(msgtype=MessageType.TEXT, body=text)
        await crypto.share_group_session(room, [UserID(to.user_id)])
        encrypted = await crypto.encrypt_megolm_event(room, EventType.ROOM_MESSAGE, content)
        path = Path.v3.rooms[room].send["m.room.encrypted"][text]
        await crypto.client.api.request(Method.PUT, path, encrypted.serialize())


async def test_a_bridge_reads_and_says_what_is_encrypted(
    made: House, people: People, tmp_path: pathlib.Path
) -> None:
    """Also what was said, by a device that is new, while it or the server was down."""
    server = made.servers["a.example"]
    bridge = await asyncio.to_thread(SecretBridge, server, tmp_path)
    alice = await people.device("alice", "a.example")

    async def has_read(text: str) -> None:
        async def check() -> bool:
            return text in bridge.read

        await until(check, 60)

    async with bridge.running() as crypto:
        room = bridge.rooms.room = RoomID(await together(alice))
        await alice.client.room_invite(room, BOT)
        await alice.in_room(room, 2)
        await alice.say(room, "for the bridge")
        await has_read("for the bridge")
        await bridge.say(crypto, alice, "from the bridge")
        await alice.reads("from the bridge")
    tablet = await people.device("alice", "a.example", new=False)
    await tablet.in_room(room, 2)
    await acquainted(alice, tablet)
    await tablet.say(room, "from the tablet")
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    async with bridge.running() as crypto:
        await has_read("from the tablet")
        await bridge.say(crypto, alice, "for both")
        await alice.reads("for both")
        await tablet.reads("for both")
    assert bridge.read == ["for the bridge", "from the tablet"]
