"""A bot made with matrix-bot-sdk goes on where it was when it or the server comes back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.clients import node
from tests.clients.nio_person import NioPerson
from tests.clients.person import RoomView
from tests.processes import Server

BOT = "@echo:localhost"


async def registered(server: Server) -> str:
    """The access token of the bot's new account."""
    body = {"username": "echo", "password": "correct horse", "auth": {"type": "m.login.dummy"}}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{server.url}/_matrix/client/v3/register", json=body) as answer,
    ):
        return str((await answer.json())["access_token"])


@asynccontextmanager
async def bot(server: Server, token: str, folder: Path) -> AsyncIterator[None]:
    with (folder / "bot.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            node.executable(),
            node.program("bot.js"),
            server.url,
            token,
            str(folder / "bot.json"),
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"started\n", (folder / "bot.log").read_text()
        yield
    finally:
        process.terminate()
        await process.wait()


def echoed(view: RoomView, text: str) -> int:
    """How often the bot has said it; its replies quote what they answer."""
    return sum((seen.body or "").endswith(f"\n{text}") for seen in view.timeline)


async def test_a_bot_answers_each_message_once_across_restarts(
    server: Server, nio: NioPerson, tmp_path: Path
) -> None:
    token = await registered(server)
    room = await nio.create_room("Echoes")
    await nio.invite(room, BOT)
    async with bot(server, token, tmp_path):
        await nio.until(room, lambda view: view.members[BOT].membership == "join")
        await nio.say(room, "!echo one")
        await nio.until(room, lambda view: echoed(view, "one") == 1)
    await nio.say(room, "!echo two")
    server.stop()
    server.start()
    async with bot(server, token, tmp_path):
        await nio.say(room, "!echo three")
        view = await nio.until(room, lambda view: echoed(view, "three") == 1)
    assert [echoed(view, text) for text in ("one", "two", "three")] == [1, 1, 1]
