"""A disk that is really full, at each step: refused cleanly, nothing left over, well again after.

The disk is a file system in memory that only an administrator can mount.
"""

import hashlib
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.media.test_thumbnails import picture
from tests.processes import OurServer, running
from tests.serving import PASSWORD

MEGABYTE = 1_048_576


@contextmanager
def mounted(folder: Path, megabytes: int) -> Iterator[None]:
    """A small disk at a folder."""
    folder.mkdir(parents=True)
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)]
    if subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
        pytest.skip("only an administrator can mount a disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Not a byte is left on the disk."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4_096))
        except OSError:
            pass
    yield
    filler.unlink()


class Client:
    """Somebody with an account."""

    def __init__(self, server: OurServer, http: aiohttp.ClientSession) -> None:
        self.server = server
        self.http = http
        self.token = ""

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        url = self.server.url + path
        async with self.http.request(method, url, headers=headers, **options) as answer:
            return answer.status, await answer.read()

    async def log_in(self) -> None:
        body = {"username": "a", "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
        status, said = await self.ask("POST", "/_matrix/client/v3/register", json=body)
        assert status == 200, said
        self.token = json.loads(said)["access_token"]

    async def upload(self, content: bytes, kind: str = "text/plain") -> tuple[int, Any]:
        path, headers = "/_matrix/media/v3/upload", {"Content-Type": kind}
        status, said = await self.ask("POST", path, data=BytesIO(content), headers=headers)
        return status, json.loads(said)

    async def download(self, uri: str) -> tuple[int, bytes]:
        return await self.ask(
            "GET", f"/_matrix/client/v1/media/download/{uri.removeprefix('mxc://')}"
        )

    async def thumbnail(self, uri: str) -> int:
        path = f"/_matrix/client/v1/media/thumbnail/{uri.removeprefix('mxc://')}"
        query = {"width": "32", "height": "32", "method": "crop"}
        return (await self.ask("GET", path, params=query))[0]

    async def faults(self) -> Any:
        token = (self.server.folder / "admin.token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        _, said = await self.ask("GET", "/_homeserver/admin/v1/media/faults", headers=headers)
        return json.loads(said)["faults"]


def noise(size: int, seed: int) -> bytes:
    return hashlib.shake_128(b"%d" % seed).digest(size)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", 8):
        yield tmp_path / "disk"


@pytest.fixture
async def client(tmp_path: Path, disk: Path) -> AsyncIterator[Client]:
    server = OurServer(tmp_path / "server")
    with server.config.open("a") as config:
        config.write(f"[media]\ndir = '{disk / 'media'}'\nkeep_free_bytes = 0\n")
    with running(server):
        async with aiohttp.ClientSession() as http:
            made = Client(server, http)
            await made.log_in()
            yield made


async def test_while_a_file_comes(client: Client, disk: Path) -> None:
    kept = {}
    for seed in range(4):
        content = noise(3 * MEGABYTE, seed)
        status, said = await client.upload(content)
        if status == 200:
            kept[said["content_uri"]] = content
        else:
            assert (status, said["errcode"]) == (507, "M_UNKNOWN")
    assert len(kept) == 2
    for uri, content in kept.items():
        assert await client.download(uri) == (200, content)
    drafts = [path for path in (disk / "media" / "drafts").iterdir() if len(path.name) != 64]
    assert drafts == []
    assert await client.faults() == []
    assert (await client.upload(noise(MEGABYTE, 5)))[0] == 200


async def test_when_a_small_file_or_a_smaller_form_gets_its_name(
    client: Client, disk: Path
) -> None:
    shown = (await client.upload(picture(500, 500), "image/png"))[1]["content_uri"]
    same = (await client.upload(b"the same"))[1]["content_uri"]
    with filled(disk):
        status, said = await client.upload(b"small")
        assert (status, said["errcode"]) == (507, "M_UNKNOWN")
        assert await client.thumbnail(shown) == 507
        assert (await client.download(same)) == (200, b"the same")
        assert await client.faults() == []
    status, said = await client.upload(b"small")
    assert status == 200
    assert await client.download(said["content_uri"]) == (200, b"small")
    assert await client.thumbnail(shown) == 200
    assert await client.faults() == []


async def test_when_it_is_the_databases_too(tmp_path: Path) -> None:
    """Nothing that was answered is lost, and the server goes on when there is room again."""
    with mounted(tmp_path / "disk", 40):
        server = OurServer(tmp_path / "disk" / "server")
        with server.config.open("a") as config:
            config.write("[media]\nkeep_free_bytes = 0\n")
        with running(server):
            async with aiohttp.ClientSession() as http:
                client = Client(server, http)
                await client.log_in()
                _, said = await client.ask("POST", "/_matrix/client/v3/createRoom", json={})
                room = f"/_matrix/client/v3/rooms/{json.loads(said)['room_id']}"
                kept = (await client.upload(b"kept"))[1]["content_uri"]
                sent = []
                with filled(tmp_path / "disk"):
                    for number in range(300):
                        path = f"{room}/send/m.room.message/{number}"
                        body = {"msgtype": "m.text", "body": "x" * 20_000}
                        status, said = await client.ask("PUT", path, json=body)
                        if status == 200:
                            sent.append(json.loads(said)["event_id"])
                    assert status >= 500
                    assert json.loads(said)["errcode"] == "M_UNKNOWN"
                    status, _ = await client.upload(b"refused")
                    assert status >= 500
                    assert (await client.download(kept)) == (200, b"kept")
                path = f"{room}/send/m.room.message/after"
                body = {"msgtype": "m.text", "body": "after"}
                status, said = await client.ask("PUT", path, json=body)
                assert status == 200, said
                sent.append(json.loads(said)["event_id"])
                assert (await client.upload(b"after"))[0] == 200
                for event_id in sent:
                    assert (await client.ask("GET", f"{room}/event/{event_id}"))[0] == 200
                assert await client.faults() == []
        checked = server.check()
        assert checked.returncode == 0, checked.stdout
