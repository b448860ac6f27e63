"""kill -9 among uploads and redactions: what should be there is, and nothing else is left."""

import asyncio
import hashlib
import itertools
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.media.bucket import Service, s3_service
from tests.processes import OurServer, Server, running
from tests.serving import PASSWORD

__all__ = ["s3_service"]


@pytest.mark.parametrize(
    "kills", [2, pytest.param(20, marks=[pytest.mark.long, pytest.mark.timeout(1_800)])]
)
async def test_files_are_whole_and_none_is_left_over(server: Server, kills: int) -> None:
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
            for kill in range(kills):
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


@pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True
)
@pytest.mark.parametrize(
    "kills", [1, pytest.param(20, marks=[pytest.mark.long, pytest.mark.timeout(1_800)])]
)
async def test_what_was_taken_back_goes_and_nothing_else(
    tmp_path: Path, database_url: str | None, kills: int
) -> None:
    server = OurServer(tmp_path / "server", database_url)
    with server.config.open("a") as config:
        config.write("[media]\nredacted_hours = 0\n")
    with running(server):
        await take_back(server, kills)
    checked = await asyncio.to_thread(server.check)
    assert checked.returncode == 0, checked.stdout


async def take_back(server: OurServer, kills: int) -> None:
    gone: set[str] = set()
    kept: set[str] = set()
    numbers = itertools.count()
    ended, more = asyncio.Event(), asyncio.Event()
    async with aiohttp.ClientSession() as http:
        api = f"{server.url}/_matrix/client/v3"
        body = {"username": "a", "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
        async with http.post(f"{api}/register", json=body) as answer:
            token = (await answer.json())["access_token"]
        headers = {"Authorization": f"Bearer {token}"}

        async def ask(method: str, url: str, **options: Any) -> Any:
            async with http.request(method, url, headers=headers, **options) as answer:
                assert answer.status == 200
                return await answer.json()

        room_id = (await ask("POST", f"{api}/createRoom", json={}))["room_id"]
        room = f"{api}/rooms/{room_id}"

        async def show() -> None:
            while not ended.is_set():
                number = next(numbers)
                try:
                    url = f"{server.url}/_matrix/media/v3/upload"
                    # Half can't be read, and may be of any file without a type from just before.
                    unseen = number % 4 >= 2
                    kind = "application/octet-stream" if unseen else "image/png"
                    file = aiohttp.BytesPayload(b"%d" % number, content_type=kind)
                    uri = (await ask("POST", url, data=file))["content_uri"]
                    content = {"msgtype": "m.image", "body": "", "url": uri}
                    if unseen:
                        content = {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "A" * 600}
                    type_ = "m.room.encrypted" if unseen else "m.room.message"
                    url = f"{room}/send/{type_}/{number}"
                    event_id = (await ask("PUT", url, json=content))["event_id"]
                    if number % 2:
                        await ask("PUT", f"{room}/redact/{event_id}/{number}", json={})
                        if not unseen:
                            gone.add(uri)
                    else:
                        kept.add(uri)
                    more.set()
                except (aiohttp.ClientError, OSError):
                    await asyncio.sleep(0.05)

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(show())
            for kill in range(kills):
                while len(gone) < 30 * (kill + 1):
                    more.clear()
                    await more.wait()
                await asyncio.to_thread(server.kill)
                # Files go right after the start: soon, that is among them, the next kill comes.
                await asyncio.to_thread(server.start)
            ended.set()
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        waiting = set(gone)
        while waiting:
            for uri in list(waiting):
                if await status(http, server, headers, uri) == 404:
                    waiting.discard(uri)
            await asyncio.sleep(0.05)
        for uri in kept:
            assert await status(http, server, headers, uri) == 200
        assert await faults(http, server) == []


async def test_files_that_are_moved_are_whole_wherever_they_are(
    tmp_path: Path, s3_service: Service
) -> None:
    """Uploads to the bucket go on meanwhile."""
    server = OurServer(tmp_path / "server")
    bucket = s3_service.bucket()
    with server.config.open("a") as config:
        config.write(f"[s3]\nbucket = '{bucket.name}'\nurl = '{bucket.url}'\n")
        config.write(f"access_key = '{bucket.access_key}'\nsecret_key = '{bucket.secret_key}'\n")
    with running(server):
        await move_about(server)


async def move_about(server: OurServer) -> None:
    kept: dict[str, bytes] = {}
    numbers = itertools.count()
    ended = asyncio.Event()
    steps = 0
    async with aiohttp.ClientSession() as http:
        body = {"username": "a", "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
        async with http.post(f"{server.url}/_matrix/client/v3/register", json=body) as answer:
            token = (await answer.json())["access_token"]
        headers = {"Authorization": f"Bearer {token}"}

        async def upload() -> None:
            while not ended.is_set():
                content = hashlib.shake_128(b"%d" % next(numbers)).digest(200_000)
                try:
                    url = f"{server.url}/_matrix/media/v3/upload"
                    async with http.post(url, data=content, headers=headers) as answer:
                        assert answer.status == 200
                        kept[(await answer.json())["content_uri"]] = content
                except (aiohttp.ClientError, OSError):
                    await asyncio.sleep(0.05)

        async def move() -> None:
            nonlocal steps
            url = f"{server.url}/_homeserver/admin/v1/media/move"
            for to in itertools.cycle(("disk", "s3")):
                # Each start has its own.
                secret = (server.folder / "admin.token").read_text().strip()
                admin = {"Authorization": f"Bearer {secret}"}
                try:
                    async with http.post(url, json={"to": to}, headers=admin) as answer:
                        if answer.status == 401:
                            continue
                        assert answer.status == 200
                        said = await answer.json()
                        assert said["failed"] == []
                        steps += said["files"]
                except (aiohttp.ClientError, OSError):
                    await asyncio.sleep(0.05)
                if ended.is_set():
                    return

        async with asyncio.TaskGroup() as group:
            group.create_task(upload())
            group.create_task(move())
            while steps < 10:  # noqa: ASYNC110  # two tasks bring it on
                await asyncio.sleep(0.01)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            ended.set()
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        for uri, content in kept.items():
            url = f"{server.url}/_matrix/client/v1/media/download/{uri.removeprefix('mxc://')}"
            async with http.get(url, headers=headers) as answer:
                assert (answer.status, await answer.read()) == (200, content)
        # That counts what is twice, too.
        assert await faults(http, server) == []


async def status(
    http: aiohttp.ClientSession, server: Server, headers: dict[str, str], uri: str
) -> int:
    url = f"{server.url}/_matrix/client/v1/media/download/{uri.removeprefix('mxc://')}"
    async with http.get(url, headers=headers) as answer:
        return answer.status


async def faults(http: aiohttp.ClientSession, server: Server) -> Any:
    token = (server.folder / "admin.token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{server.url}/_homeserver/admin/v1/media/faults"
    async with http.get(url, headers=headers) as answer:
        return (await answer.json())["faults"]
