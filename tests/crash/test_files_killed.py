"""kill -9 among uploads: every file that was answered is there, and nothing else is left."""

import asyncio
import hashlib
import itertools
from typing import Any

import aiohttp

from tests.processes import Server
from tests.serving import PASSWORD

KILLS = 2


async def test_files_are_whole_and_none_is_left_over(server: Server) -> None:
    kept: dict[str, bytes] = {}
    numbers = itertools.count()
    ended = asyncio.Event()
    more = asyncio.Event()
    async with aiohttp.ClientSession() as http:
        body = {"username": "a", "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
        async with http.post(f"{server.url}/_matrix/client/v3/register", json=body) as answer:
            token = (await answer.json())["access_token"]
        headers = {"Authorization": f"Bearer {token}"}

        async def upload() -> None:
            while not ended.is_set():
                number = next(numbers)
                # Some are one piece, some many; every third content has been there before.
                content = hashlib.shake_128(b"%d" % (number // 3)).digest(1 + number % 5 * 90_000)
                try:
                    url = f"{server.url}/_matrix/media/v3/upload"
                    async with http.post(url, data=content, headers=headers) as answer:
                        assert answer.status == 200
                        kept[(await answer.json())["content_uri"]] = content
                        more.set()
                except (aiohttp.ClientError, OSError):
                    await asyncio.sleep(0.05)

        async with asyncio.TaskGroup() as group:
            for _ in range(6):
                group.create_task(upload())
            for kill in range(KILLS):
                while len(kept) < 25 * (kill + 1):
                    more.clear()
                    await more.wait()
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            ended.set()
        # What a kill has left in doubt is decided when the server starts.
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        for uri, content in kept.items():
            url = f"{server.url}/_matrix/client/v1/media/download/{uri.removeprefix('mxc://')}"
            async with http.get(url, headers=headers) as answer:
                assert (answer.status, await answer.read()) == (200, content)
        assert await faults(http, server) == []
        drafts = list((server.folder / "media" / "drafts").iterdir())
        assert drafts == []


async def faults(http: aiohttp.ClientSession, server: Server) -> Any:
    token = (server.folder / "admin.token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{server.url}/_homeserver/admin/v1/media/faults"
    async with http.get(url, headers=headers) as answer:
        return (await answer.json())["faults"]
