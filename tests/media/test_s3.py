"""Files in a bucket of a real service that speaks S3."""

import hashlib
import random
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import obstore
import pytest

from storage.blobs import BlobMissing, Disk, PlaceFailed
from storage.s3 import S3, Bucket
from tests.media.bucket import Service, s3_service
from tests.media.sending import V3, ask, download, upload
from tests.media.test_moderation import faults, files
from tests.media.test_thumbnails import opened, picture, thumbnail
from tests.serving import Person, Running

__all__ = ["s3_service"]

SQLITE = pytest.mark.parametrize("database_settings", ["sqlite"], indirect=True)
PATH = "/_homeserver/admin/v1/media"
BIG = random.Random(1).randbytes(6_000_000)  # two parts


def configured(bucket: Bucket) -> dict[str, Any]:
    """The sections of the configuration for a bucket."""
    return {
        "media": {"redacted_hours": 1, "unauthenticated": True},
        "s3": {
            "bucket": bucket.name,
            "url": bucket.url,
            "region": bucket.region,
            "access_key": bucket.access_key,
            "secret_key": bucket.secret_key,
            "prefix": bucket.prefix,
            "redirect_url": bucket.link_url,
        },
    }


@pytest.fixture
def bucket(request: pytest.FixtureRequest, s3_service: Service) -> Bucket:
    return s3_service.bucket(getattr(request, "param", "") and s3_service.url)


@pytest.fixture
def settings(bucket: Bucket) -> dict[str, Any]:
    return configured(bucket)


@pytest.fixture
async def admin(server: Running) -> Person:
    return await server.person("admin", admin=True)


@pytest.fixture
async def alice(server: Running, admin: Person) -> Person:
    return await server.person("alice")


async def kept(bucket: Bucket) -> dict[bytes, int]:
    return await S3(bucket).sizes()


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Disk]:
    made = Disk(tmp_path / "disk", durable=False)
    await made.open()
    yield made
    await made.close()


async def test_the_place_itself(bucket: Bucket, disk: Disk) -> None:
    place = S3(bucket)
    for content in (b"", b"small", BIG):
        digest = hashlib.sha256(content).digest()
        assert not await place.has(digest)
        with pytest.raises(BlobMissing):
            assert [piece async for piece in place.read(digest, 0, 1)]
        async with disk.draft() as draft:
            await draft.write(content)
            await draft.finish()
            await place.put(draft)
        assert await place.has(digest)
        whole = b"".join([piece async for piece in place.read(digest, 0, len(content))])
        assert whole == content
        part = [piece async for piece in place.read(digest, 2, len(content) - 1)]
        assert b"".join(part) == content[2:-1]
        assert await place.sizes() == {digest: len(content)}
        for _ in range(2):
            await place.delete(digest)
        assert await place.sizes() == {}


async def test_what_can_not_be_reached_or_is_not_allowed_fails(bucket: Bucket, disk: Disk) -> None:
    """Not as a file that is missing: that would be fetched, or reported, as lost."""
    wrong = Bucket(bucket.url, bucket.name, bucket.region, bucket.access_key, "another key")
    for place in (S3(wrong), S3(Bucket("http://127.0.0.1:9", "b", "r", "k", "s"))):
        digest = hashlib.sha256(b"content").digest()
        with pytest.raises(PlaceFailed):
            await place.has(digest)
        with pytest.raises(PlaceFailed):
            await place.sizes()
        with pytest.raises(PlaceFailed):
            assert [piece async for piece in place.read(digest, 0, 1)]
        async with disk.draft() as draft:
            await draft.write(b"content")
            await draft.finish()
            with pytest.raises(PlaceFailed):
                await place.put(draft)


@SQLITE
async def test_files_and_their_smaller_forms_are_kept_there_alone(
    server: Running, alice: Person, admin: Person, bucket: Bucket
) -> None:
    name = await upload(alice, BIG, "application/x-tar", "Grüße.tar")
    got = await download(alice, name)
    assert (got.status, got.body) == (200, BIG)
    part = await download(alice, name, Range="bytes=5242870-5242890")
    assert (part.status, part.body) == (206, BIG[5_242_870:5_242_891])
    beyond = await download(alice, name, Range="bytes=6000000-")
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, "bytes */6000000")
    known = await download(alice, name, If_None_Match=got.headers["ETag"])
    assert (known.status, known.body) == (304, b"")
    assert "Gr%C3%BC%C3%9Fe.tar" in got.headers["Content-Disposition"]
    assert await upload(alice, BIG) != name
    shown = await upload(alice, picture(500, 500), "image/png")
    assert opened(await thumbnail(alice, shown, 32, 32, method="crop")).size == (32, 32)
    assert files(server) == 0
    assert len(await kept(bucket)) == 3
    assert await faults(admin) == []
    await admin.ok("POST", f"{PATH}/delete", body={"name": f"mxc://{shown}"})
    assert await kept(bucket) == {hashlib.sha256(BIG).digest(): len(BIG)}
    assert await faults(admin) == []


@SQLITE
async def test_faults_are_found_there_too(
    server: Running, alice: Person, admin: Person, bucket: Bucket
) -> None:
    lost = hashlib.sha256(b"lost").digest()
    await upload(alice, b"lost")
    place = S3(bucket)
    await place.delete(lost)
    unknown = hashlib.sha256(b"unknown").hexdigest()
    await obstore.put_async(place.objects, f"{unknown[:2]}/{unknown[2:4]}/{unknown}", b"unknown")
    assert {(one["hash"], one["what"]) for one in await faults(admin)} == {
        (lost.hex(), "the file is missing"),
        (unknown, "the file is not known"),
    }


@pytest.mark.parametrize("bucket", ["with links"], indirect=True)
@SQLITE
async def test_clients_are_sent_there(server: Running, alice: Person) -> None:
    name = await upload(alice, BIG[:1_000], "image/png", 'a "b" & Ü.png')
    path = f"/_matrix/client/v1/media/download/{name}"
    sent = await ask(alice, "GET", path, allow_redirects=False)
    assert sent.status == 307
    # Without a token: the link is enough, and says what the file is.
    async with server.http.get(sent.headers["Location"]) as answer:
        assert (answer.status, await answer.read()) == (200, BIG[:1_000])
        assert answer.headers["Content-Type"] == "image/png"
        shown = answer.headers["Content-Disposition"]
        assert shown.startswith("inline")
        assert "%C3%9C" in shown
    changed = sent.headers["Location"].replace("image%2Fpng", "text%2Fhtml")
    async with server.http.get(changed) as answer:
        assert answer.status == 403
    assert (await ask(alice, "HEAD", path, allow_redirects=False)).status == 200
    etag = hashlib.sha256(BIG[:1_000]).hexdigest()
    again = await ask(
        alice, "GET", path, headers={"If-None-Match": f'"{etag}"'}, allow_redirects=False
    )
    assert again.status == 304
    for word, status in (("true", 307), ("false", 200)):
        path = f"{V3}/download/{name}?allow_redirect={word}"
        assert (await ask(alice, "GET", path, allow_redirects=False)).status == status


@SQLITE
async def test_files_move_there_and_back(
    server: Running, alice: Person, admin: Person, bucket: Bucket
) -> None:
    contents = [b"%d" % number for number in range(60)]
    names = [await upload(alice, content) for content in contents]
    assert (await move(admin, "disk"))["files"] == 60
    assert (files(server), await kept(bucket)) == (60, {})
    # One is missing, one is not what it should be: both are told, and the others move.
    digests = [hashlib.sha256(content).digest() for content in contents]
    disk = server.app.services.media.files.disk
    await disk.flush()
    disk.path(digests[0]).unlink()
    disk.path(digests[1]).write_bytes(b"x")
    first = await admin.ok("POST", f"{PATH}/move", body={"to": "s3"})
    assert first["after"] is not None
    await server.restart()
    done = await move(admin, "s3")
    assert first["files"] + done["files"] == 58
    assert {*first["failed"], *done["failed"]} == {digests[0].hex(), digests[1].hex()}
    assert set(await kept(bucket)) == set(digests[2:])
    for name, content in list(zip(names, contents, strict=True))[2:]:
        assert (await download(alice, name)).body == content
    assert (await move(admin, "s3"))["files"] == 0
    await admin.refused("M_INVALID_PARAM", "POST", f"{PATH}/move", body={"to": "moon"})


async def move(admin: Person, to: str) -> dict[str, Any]:
    """Move everything, as the command does."""
    told: dict[str, Any] = {"files": 0, "failed": []}
    after = None
    while True:
        step = await admin.ok("POST", f"{PATH}/move", body={"to": to, "after": after})
        told["files"] += step["files"]
        told["failed"] += step["failed"]
        after = step["after"]
        if after is None:
            return told


class TestWhenItIsGone:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return configured(Bucket("http://127.0.0.1:9", "b", "r", "k", "s"))

    @SQLITE
    async def test_uploads_are_refused_and_leave_nothing(
        self, server: Running, alice: Person
    ) -> None:
        for _ in range(2):
            refused = await ask(alice, "POST", f"{V3}/upload", data=BytesIO(b"content"))
            assert (refused.status, b"M_UNKNOWN" in refused.body) == (503, True)
            # A file may be left over there; it does not keep the server from starting.
            await server.restart()
        assert files(server) == 0
