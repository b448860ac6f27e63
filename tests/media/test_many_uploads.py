"""Many uploads or downloads at once take little memory, however large, fast or slow they are."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from io import BytesIO
from pathlib import Path

import aiohttp
import pytest

from tests.processes import OurServer, resident_bytes, running
from tests.serving import PASSWORD

MEGABYTE = 1_048_576
PIECE = bytes(MEGABYTE // 4)
EACH = 0.6 * MEGABYTE
"""What an upload that is under way takes, and what that scatters."""
MOST = 150 * MEGABYTE


@pytest.mark.parametrize(
    ("uploads", "megabytes"),
    [(40, 2), pytest.param(100, 50, marks=[pytest.mark.long, pytest.mark.timeout(1_800)])],
)
async def test_uploads_are_not_held_in_memory(tmp_path: Path, uploads: int, megabytes: int) -> None:
    with running(OurServer(tmp_path / "server")) as server:
        timeout = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http:
            body = {"username": "a", "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
            url = f"{server.url}/_matrix/client/v3/register"
            async with http.post(url, json=body) as answer:
                headers = {"Authorization": f"Bearer {(await answer.json())['access_token']}"}
            begun = asyncio.Barrier(uploads)

            async def upload(number: int) -> None:
                async def pieces() -> AsyncIterator[bytes]:
                    yield b"%d" % number
                    # All are under way before any goes on.
                    await begun.wait()
                    for _ in range(4 * megabytes):
                        yield PIECE

                url = f"{server.url}/_matrix/media/v3/upload"
                async with http.post(url, data=pieces(), headers=headers) as answer:
                    assert answer.status == 200, await answer.text()

            peak = idle = resident_bytes(server.pid)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(upload(number)) for number in range(uploads)]
                while not all(task.done() for task in tasks):
                    peak = max(peak, resident_bytes(server.pid))
                    await asyncio.sleep(0.02)
        said = f"{idle / MEGABYTE:.0f} MiB before, {peak / MEGABYTE:.0f} at most"
        print(said)
        assert peak - idle < uploads * EACH, said
        assert peak < MOST, said


async def test_downloads_that_hardly_go_on_are_not_held_in_memory(tmp_path: Path) -> None:
    """Of a file that nobody reads to its end, only pieces are on their way."""
    with running(OurServer(tmp_path / "server")) as server:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            body = {"username": "a", "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
            async with http.post(f"{server.url}/_matrix/client/v3/register", json=body) as answer:
                headers = {"Authorization": f"Bearer {(await answer.json())['access_token']}"}
            content = BytesIO(bytes(30 * MEGABYTE))
            url = f"{server.url}/_matrix/media/v3/upload"
            async with http.post(url, data=content, headers=headers) as answer:
                uri = (await answer.json())["content_uri"]
            path = f"/_matrix/client/v1/media/download/{uri.removeprefix('mxc://')}"
            idle = resident_bytes(server.pid)
            async with AsyncExitStack() as downloads:
                for _ in range(60):
                    get = http.get(server.url + path, headers=headers)
                    answer = await downloads.enter_async_context(get)
                    assert len(await answer.content.readexactly(100_000)) == 100_000
                peak = resident_bytes(server.pid)
                # Who is slow holds up nobody.
                async with http.get(server.url + path, headers=headers) as answer:
                    assert len(await answer.read()) == 30 * MEGABYTE
                peak = max(peak, resident_bytes(server.pid))
        said = f"{idle / MEGABYTE:.0f} MiB before, {peak / MEGABYTE:.0f} at most"
        assert peak - idle < 60 * EACH, said
        assert peak < MOST, said
