"""A bridge made with mautrix-python, and a person whose program is made with matrix-nio."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mautrix.appservice import AppService, IntentAPI
from mautrix.appservice.state_store import ASStateStore
from mautrix.client.state_store import MemoryStateStore
from mautrix.types import EventType, Membership, RoomID, UserID

from tests.clients.nio_person import NioPerson
from tests.processes import ROOT, OurServer, Server, free_port

# The library says `loop` to aiohttp, which would rather not hear it.
pytestmark = pytest.mark.filterwarnings("ignore:.*loop argument is deprecated:DeprecationWarning")

BOT = "@_irc_bot:localhost"
GHOST = UserID("@_irc_bob:localhost")


class Remembered(ASStateStore, MemoryStateStore):
    """What a bridge keeps, for as long as it lives."""

    def __init__(self) -> None:
        ASStateStore.__init__(self)
        MemoryStateStore.__init__(self)


class IrcBridge:
    """Joins where its bot is invited, and hears what is said there."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.port = free_port()
        self.heard: list[str] = []
        self.arrived = asyncio.Event()
        self._server = server
        self.registration = folder / "irc.yaml"
        self.registration.write_text(
            json.dumps(
                {
                    "id": "irc",
                    "url": f"http://127.0.0.1:{self.port}",
                    "as_token": "as",
                    "hs_token": "hs",
                    "sender_localpart": "_irc_bot",
                    "namespaces": {"users": [{"exclusive": True, "regex": "@_irc_.*"}]},
                    "rate_limited": False,
                }
            )
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[AppService]:
        service = AppService(
            self._server.url,
            "localhost",
            "as",
            "hs",
            "_irc_bot",
            "irc",
            state_store=Remembered(),
            default_http_retry_count=20,
        )

        @service.matrix_event_handler
        async def handle(event: Any) -> None:
            if event.type == EventType.ROOM_MEMBER and event.state_key == BOT:
                if event.content.membership == Membership.INVITE:
                    await service.intent.join_room_by_id(event.room_id)
            elif event.type == EventType.ROOM_MESSAGE and not event.sender.startswith("@_irc_"):
                self.heard.append(str(event.content.body))
                self.arrived.set()

        service.synchronous_handlers = True
        await service.start("127.0.0.1", self.port)
        try:
            yield service
        finally:
            await service.stop()


@pytest.fixture
def irc(server: Server, tmp_path: Path) -> IrcBridge:
    """The bridge, which the running server was told of by the command line."""
    assert isinstance(server, OurServer)
    bridge = IrcBridge(server, tmp_path)
    command = [sys.executable, "-m", "homeserver", "appservice", "add", str(bridge.registration)]
    added = subprocess.run(
        [*command, "-c", str(server.config)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert added.returncode == 0, added.stderr
    return bridge


async def test_a_bridge_talks_and_misses_nothing_while_it_or_the_server_is_down(
    irc: IrcBridge, nio: NioPerson, server: Server
) -> None:
    async with irc.running() as service:
        room = RoomID(await nio.create_room("Channel"))
        await nio.invite(room, BOT)
        await nio.until(room, lambda view: BOT in view.members)
        ghost: IntentAPI = service.intent.user(GHOST)
        await service.intent.ensure_joined(room)
        await service.intent.invite_user(room, GHOST)
        await ghost.ensure_joined(room)
        await ghost.set_displayname("Bob (IRC)")
        said = await ghost.send_text(room, "hello from IRC")
        seen = (await nio.until_seen(room, str(said))).event(str(said))
        assert seen is not None
        assert (seen.sender, seen.body) == (GHOST, "hello from IRC")
        await nio.until(room, lambda view: view.members[GHOST].name == "Bob (IRC)")
        reaction = await ghost.react(room, said, "👍")
        await nio.until_seen(room, str(reaction))
        for number in range(5):
            await nio.say(room, f"with the bridge {number}")
    for number in range(150):
        await nio.say(room, f"without the bridge {number}")
    server.kill()
    server.start()
    async with irc.running():
        await nio.say(room, "after the restart")
        async with asyncio.timeout(60):
            while irc.heard[-1:] != ["after the restart"]:
                await irc.arrived.wait()
                irc.arrived.clear()
    assert irc.heard == [
        *(f"with the bridge {number}" for number in range(5)),
        *(f"without the bridge {number}" for number in range(150)),
        "after the restart",
    ]
