"""An application service that only acknowledges what it is sent, or is down.

Owns its registration and its listener. It keeps the ids of the messages that came, in their order.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from bench.client import V3, Client, Refused
from tests.processes import free_port

PATIENCE = 300.0
_TOKEN = "token-of-the-service"
_ANSWER = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class _Event(msgspec.Struct):
    event_id: str
    type: str


class _Transaction(msgspec.Struct):
    events: list[_Event]


_decode = msgspec.json.Decoder(_Transaction).decode


def registration(folder: Path) -> Path:
    """A new service's registration, in a file in the folder."""
    path = folder / "service.json"
    namespace = {"exclusive": True, "regex": "@_bench_.*"}
    path.write_text(
        json.dumps(
            {
                "id": "bench",
                "url": f"http://127.0.0.1:{free_port()}",
                "as_token": _TOKEN,
                "hs_token": "token-of-the-server",
                "sender_localpart": "_bench_bot",
                "rate_limited": False,
                "namespaces": {"users": [namespace], "aliases": [], "rooms": []},
            }
        )
    )
    return path


class Service:
    """`came` are messages, each once for each time that it came; `began` and `last` are when."""

    def __init__(self) -> None:
        self.came: list[str] = []
        self.is_down = False
        self.began = 0.0
        self.last = 0.0
        self._arrived = asyncio.Event()

    async def arrive(self, bot: Client, room_id: str) -> None:
        """Have the service's own user in the room."""
        bot.use(_TOKEN)
        body = {"type": "m.login.application_service", "username": "_bench_bot"}
        with contextlib.suppress(Refused):  # it may be there already
            await bot.call("POST", f"{V3}/register", {**body, "inhibit_login": True})
        await bot.join(room_id)

    async def until(self, enough: Callable[[], bool]) -> None:
        """Wait until `enough()`; TimeoutError if that never comes."""
        async with asyncio.timeout(PATIENCE):
            while not enough():
                self._arrived.clear()
                await self._arrived.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(length)
                if self.is_down:
                    writer.write(_ANSWER % b"503 Service Unavailable")
                    continue
                writer.write(_ANSWER % b"200 OK")
                if b"/transactions/" in head:
                    self._note(body)
        writer.close()

    def _note(self, body: bytes) -> None:
        self.last = time.perf_counter()
        if not self.came:
            self.began = self.last
        events = _decode(body).events
        self.came += [event.event_id for event in events if event.type == "m.room.message"]
        self._arrived.set()


def _port(registered: Path) -> int:
    return int(json.loads(registered.read_text())["url"].rpartition(":")[2])


@asynccontextmanager
async def listening(registered: Path) -> AsyncIterator[Service]:
    """The service of this registration."""
    service, port = Service(), _port(registered)
    server = await asyncio.start_server(service.serve, "127.0.0.1", port, limit=4_194_304)
    try:
        yield service
    finally:
        server.close()
