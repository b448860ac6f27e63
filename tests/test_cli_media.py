"""`homeserver media ...` says and does the same whether the server runs or not."""

import asyncio
import hashlib
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.media.bucket import Service, s3_service
from tests.media.test_thumbnails import picture
from tests.processes import OurServer
from tests.serving import PASSWORD
from tests.test_cli_federation import folder, place
from tests.test_cli_users import done, refused, told

__all__ = ["folder", "place", "s3_service"]


def test_files_are_looked_at_and_hidden(place: Path) -> None:
    assert done(place, "media", "fsck") == "All files are as they should be.\n"
    assert told(place, "media", "usage") == {
        "uploaded": {"bytes": 0, "files": 0, "users": []},
        "cached_bytes": 0,
        "hidden": [],
        "never_fetched": [],
    }
    digest = "ab" * 32
    assert digest in done(place, "media", "block", digest, "--reason", "spam")
    assert f"{digest} blocked: spam" in done(place, "media", "usage")
    assert "no mxc:// URI" in refused(place, "media", "quarantine", "picture.png")
    assert "no such file" in refused(place, "media", "delete", "mxc://test.example/nothing")
    done(place, "media", "release", digest)
    assert told(place, "media", "usage")["hidden"] == []
    assert done(place, "media", "move", "--to", "disk") == "0 files (0.0 MB) were moved.\n"
    assert "can't be kept in 's3'" in refused(place, "media", "move", "--to", "s3")
    assert done(place, "media", "purge", "--days", "0") == "0 files were dropped.\n"


@dataclass
class Client:
    """Somebody who uploads and downloads at a server that is stopped, killed and started."""

    server: OurServer
    http: aiohttp.ClientSession
    stopped: bool = False
    token: str = ""

    async def log_in(self) -> None:
        body = {"username": "a", "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
        url = f"{self.server.url}/_matrix/client/v3/register"
        async with self.http.post(url, json=body) as answer:
            self.token = (await answer.json())["access_token"]

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        url = self.server.url + path
        async with self.http.request(method, url, headers=headers, **options) as answer:
            return answer.status, await answer.read()

    async def upload(self, content: bytes, kind: str = "text/plain") -> str:
        path, headers = "/_matrix/media/v3/upload", {"Content-Type": kind}
        status, body = await self.ask("POST", path, data=content, headers=headers)
        assert status == 200, body
        return str(json.loads(body)["content_uri"])

    async def download(self, uri: str) -> tuple[int, bytes]:
        path = f"/_matrix/client/v1/media/download/{uri.removeprefix('mxc://')}"
        return await self.ask("GET", path)

    async def status(self, uri: str) -> int:
        return (await self.download(uri))[0]

    async def media(self, *arguments: str, code: int = 0) -> str:
        """What the command prints; with `stopped` the server is down meanwhile."""
        if self.stopped:
            await asyncio.to_thread(self.server.stop)
        done = await asyncio.to_thread(self.server.cli, "media", *arguments)
        assert done.returncode == code, done.stderr
        if self.stopped:
            await asyncio.to_thread(self.server.start)
        return done.stdout


@pytest.fixture
def more() -> str:
    """What is added to the configuration."""
    return ""


@pytest.fixture
def server(tmp_path: Path, more: str) -> Iterator[OurServer]:
    made = OurServer(tmp_path / "server")
    with made.config.open("a") as config:
        config.write(more)
    made.start()
    yield made
    made.kill()


@pytest.fixture(params=[False, True], ids=["running", "stopped"])
async def client(request: pytest.FixtureRequest, server: OurServer) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as http:
        made = Client(server, http, stopped=request.param)
        await made.log_in()
        yield made


async def test_what_is_hidden_blocked_and_deleted_is_so_for_everybody(client: Client) -> None:
    uris = [await client.upload(b"the same") for _ in range(2)]
    other = await client.upload(b"another")
    usage = json.loads(await client.media("usage", "--json"))
    # Who uploads a content again has it twice, and may have only so much.
    size, user = len(b"the same") * 2 + len(b"another"), {"user": "@a:localhost"}
    mine = {"bytes": size, "files": 3}
    assert usage["uploaded"] == {**mine, "users": [{**user, **mine}]}
    assert "@a:localhost: 0.0 MB in 3 files" in await client.media("usage")
    digest = hashlib.sha256(b"the same").hexdigest()

    assert digest in await client.media("quarantine", uris[0], "--reason", "law")
    uris.append(await client.upload(b"the same"))
    assert [await client.status(uri) for uri in uris] == [404, 404, 404]
    assert f"{digest} hidden: law" in await client.media("usage")
    await client.media("release", uris[1])
    assert [await client.status(uri) for uri in uris] == [200, 200, 200]

    await client.media("block", uris[0])
    assert [await client.status(uri) for uri in uris] == [404, 404, 404]
    path = "/_matrix/media/v3/upload"
    status, body = await client.ask("POST", path, data=b"the same")
    assert (status, json.loads(body)["errcode"]) == (403, "M_FORBIDDEN")
    await client.media("release", digest)
    assert await client.status(await client.upload(b"the same")) == 200

    assert await client.status(other) == 200
    await client.media("delete", other)
    assert await client.status(other) == 404
    assert await client.media("fsck") == "All files are as they should be.\n"


async def test_what_is_missing_or_unknown_is_found(client: Client, server: OurServer) -> None:
    await client.upload(b"lost")
    digest, unknown = (hashlib.sha256(one).hexdigest() for one in (b"lost", b"unknown"))
    blobs = server.folder / "media" / "blobs"
    for name in (blobs / digest[:2] / digest, server.folder / "media" / "drafts" / digest):
        name.unlink(missing_ok=True)
    (blobs / unknown[:2] / unknown).write_bytes(b"unknown")
    told = json.loads(await client.media("fsck", "--json", code=1))
    assert {(one["hash"], one["what"]) for one in told} == {
        (digest, "the file is missing"),
        (unknown, "the file is not known"),
    }


class TestPurge:
    @pytest.fixture
    def more(self) -> str:
        return '[federation]\nallow_networks = ["127.0.0.0/8"]\n'

    async def test_what_is_only_cached_goes_and_uploads_stay(self, client: Client) -> None:
        """As a picture of a preview is, of which as of other servers' files only a copy is kept."""
        cat = picture(20, 20)

        async def show(_: web.BaseRequest) -> web.StreamResponse:
            return web.Response(body=cat, content_type="image/png")

        runner = web.ServerRunner(web.Server(show, access_log=None))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        own = await client.upload(b"own")
        query = {"url": f"http://127.0.0.1:{runner.addresses[0][1]}/cat.png"}
        path = "/_matrix/client/v1/media/preview_url"
        status, body = await client.ask("GET", path, params=query)
        assert status == 200, body
        cached = json.loads(body)["og:image"]
        await runner.cleanup()

        assert json.loads(await client.media("usage", "--json"))["cached_bytes"] == len(cat)
        assert await client.media("purge", "--days", "1") == "0 files were dropped.\n"
        assert await client.status(cached) == 200
        assert await client.media("purge", "--days", "0") == "1 files were dropped.\n"
        assert [await client.status(uri) for uri in (cached, own)] == [404, 200]
        assert json.loads(await client.media("usage", "--json"))["cached_bytes"] == 0


class TestMove:
    @pytest.fixture
    def more(self, s3_service: Service) -> str:
        bucket = s3_service.bucket()
        lines = ["[s3]", f"bucket = '{bucket.name}'", f"url = '{bucket.url}'", "new_files = false"]
        lines += [f"access_key = '{bucket.access_key}'", f"secret_key = '{bucket.secret_key}'"]
        return "\n".join([*lines, ""])

    async def test_there_and_back(self, client: Client) -> None:
        kept = {await client.upload(b"%d" % number): b"%d" % number for number in range(60)}
        for to, there in (("s3", 0), ("disk", 60)):
            assert (await client.media("move", "--to", to)).startswith("60 files (")
            assert on_disk(client.server) == there
            for uri, content in kept.items():
                assert await client.download(uri) == (200, content)
            assert await client.media("fsck") == "All files are as they should be.\n"

    @pytest.mark.parametrize("client", [False], indirect=True, ids=["running"])
    async def test_among_uploads_and_downloads_and_kills(self, client: Client) -> None:
        """Of the command, and of the server; the same command goes on where it was."""
        server = client.server
        kept: dict[str, bytes] = {}
        numbers = itertools.count()
        ended = asyncio.Event()
        downloads = 0

        async def store() -> None:
            content = hashlib.shake_128(b"%d" % next(numbers)).digest(150_000)
            kept[await client.upload(content)] = content

        async def use() -> None:
            nonlocal downloads
            while not ended.is_set():
                try:
                    await store()
                    for uri in list(kept)[-5:]:
                        assert await client.download(uri) == (200, kept[uri])
                        downloads += 1
                except (aiohttp.ClientError, OSError):
                    await asyncio.sleep(0.05)

        while len(kept) < 150:
            await store()
        async with asyncio.TaskGroup() as group:
            group.create_task(use())
            for to in ("s3", "disk"):
                for kill in ("the command", "the server"):
                    process = await asyncio.create_subprocess_exec(
                        *server.command()[:-3], "media", "move", "--to", to, "-c", server.config
                    )
                    before = on_disk(server)
                    while (  # noqa: ASYNC110  # processes bring it on
                        abs(on_disk(server) - before) < 5 and process.returncode is None
                    ):
                        await asyncio.sleep(0.01)
                    if kill == "the command":
                        if process.returncode is None:
                            process.kill()
                        await process.wait()
                    else:
                        await asyncio.to_thread(server.kill)
                        await process.wait()
                        await asyncio.to_thread(server.start)
                await client.media("move", "--to", to)
            ended.set()
        assert downloads > 0
        await client.media("move", "--to", "s3")
        assert on_disk(server) == 0
        for uri, content in kept.items():
            assert await client.download(uri) == (200, content)
        assert await client.media("fsck") == "All files are as they should be.\n"


def on_disk(server: OurServer) -> int:
    return sum(1 for _ in (server.folder / "media" / "blobs").glob("*/*"))
