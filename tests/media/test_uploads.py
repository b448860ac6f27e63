"""Uploads and downloads; spec: client-server-api#content-repository."""

import asyncio
import hashlib
import json
import shutil
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import aiohttp
import pytest
from yarl import URL

from storage.blobs import PIECE
from tests.media.sending import V1, V3, ask, download, upload
from tests.media.test_moderation import files
from tests.serving import CLIENT, Person, Running

MEGABYTE = 1_048_576


@pytest.fixture
async def alice(server: Running) -> Person:
    return await server.person("alice")


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 3 * MEGABYTE + 7])
async def test_what_was_uploaded_comes_back(alice: Person, size: int) -> None:
    content = hashlib.shake_128(b"x").digest(size)
    name = await upload(alice, content, "Application/Octet-Stream")
    got = await download(alice, name)
    assert (got.status, got.body) == (200, content)
    assert got.headers["Content-Length"] == str(size)
    assert got.headers["Content-Type"] == "application/octet-stream"


async def test_the_headers_keep_browsers_from_running_it(alice: Person) -> None:
    name = await upload(alice, b"<script>", "Text/HTML; charset=utf-8", "page.html")
    got = await download(alice, name)
    assert got.headers["Content-Type"] == "text/html; charset=utf-8"
    assert got.headers["Content-Disposition"] == 'attachment; filename="page.html"'
    assert got.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    assert got.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert got.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("kind", "filename", "expected"),
    [
        ("image/png", None, "inline"),
        ("IMAGE/SVG+XML", "a.svg", 'attachment; filename="a.svg"'),
        ("image/png", 'a"b\\c.png', 'inline; filename="a\\"b\\\\c.png"'),
        ("image/png", "Grüße.png", "inline; filename*=UTF-8''Gr%C3%BC%C3%9Fe.png"),
        ("image/png", "a\r\nSet-Cookie: x", 'inline; filename="aSet-Cookie: x"'),
        ("image/png", "../../etc/passwd", 'inline; filename="../../etc/passwd"'),
        ("image/png", "a\u202egnp.exe", 'inline; filename="agnp.exe"'),
        ("image/png", "x" * 400, f'inline; filename="{"x" * 255}"'),
        ("text/html", None, "attachment"),
        ("application/xhtml+xml", None, "attachment"),
        ("text/xml", None, "attachment"),
        ("text/javascript", None, "attachment"),
        ("application/pdf", None, "attachment"),
        ("multipart/x-mixed-replace; boundary=x", None, "attachment"),
        ("image/png; text/html", None, "inline"),
        ("image/png\ttext/html", None, "attachment"),
        ("nonsense", None, "attachment"),
        (None, None, "attachment"),
    ],
)
async def test_the_disposition_follows_from_the_type(
    alice: Person, kind: str | None, filename: str | None, expected: str
) -> None:
    name = await upload(alice, b"content", kind, filename)
    got = await download(alice, name)
    assert got.headers["Content-Disposition"] == expected
    if kind is None or "/" not in kind or "\t" in kind:
        assert got.headers["Content-Type"] == "application/octet-stream"
    # What was said behind the type, and is no parameter, is not said again.
    assert got.headers["Content-Type"].count("/") == 1


async def test_another_name_can_be_asked_for(alice: Person) -> None:
    name = await upload(alice, b"content", "text/plain", "mine.txt")
    got = await ask(alice, "GET", f"{V1}/download/{name}/other.txt")
    assert got.headers["Content-Disposition"] == 'inline; filename="other.txt"'


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("a%0d%0aSet-Cookie:%20x", "inline; filename*=UTF-8''a%0D%0ASet-Cookie%3A%20x"),
        ("a%22;%20x=%22b", 'inline; filename="a\\"; x=\\"b"'),
        ("..%2f..%2fetc%2fpasswd", 'inline; filename="../../etc/passwd"'),
        ("%e2%80%aegnp.exe", "inline; filename*=UTF-8''%E2%80%AEgnp.exe"),
    ],
)
async def test_a_name_that_is_asked_for_leads_out_of_no_header(
    server: Running, alice: Person, asked: str, expected: str
) -> None:
    name = await upload(alice, b"content", "text/plain", "mine.txt")
    url = URL(f"{server.url}{V1}/download/{name}/{asked}", encoded=True)
    headers = {"Authorization": f"Bearer {alice.token}"}
    async with server.http.get(url, headers=headers) as got:
        assert got.status == 200
        assert got.headers["Content-Disposition"] == expected
        assert "Set-Cookie" not in got.headers


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        ("bytes=0-3", 206, b"0123"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-2", 206, b"89"),
        ("bytes=8-99", 206, b"89"),
        ("bytes=10-", 416, b""),
        ("bytes=-0", 416, b""),
        ("bytes=5-2", 200, b"0123456789"),
        ("bytes=0-1,4-5", 200, b"0123456789"),
        ("lines=0-1", 200, b"0123456789"),
    ],
)
async def test_ranges(alice: Person, asked: str, status: int, body: bytes) -> None:
    name = await upload(alice, b"0123456789")
    got = await download(alice, name, Range=asked)
    assert (got.status, got.body) == (status, body)
    if status == 416:
        assert got.headers["Content-Range"] == "bytes */10"


async def test_a_range_across_pieces(alice: Person) -> None:
    content = hashlib.shake_128(b"y").digest(4 * PIECE)
    name = await upload(alice, content)
    got = await download(alice, name, Range=f"bytes=100-{3 * PIECE}")
    assert got.body == content[100 : 3 * PIECE + 1]
    assert got.headers["Content-Range"] == f"bytes 100-{3 * PIECE}/{4 * PIECE}"


async def test_what_a_client_has_is_not_sent_again(alice: Person) -> None:
    name = await upload(alice, b"content")
    etag = (await download(alice, name)).headers["ETag"]
    for given in (etag, f'"other", W/{etag}', "*"):
        got = await download(alice, name, If_None_Match=given)
        assert (got.status, got.body) == (304, b"")
    assert (await download(alice, name, If_None_Match='"other"')).status == 200
    part = await download(alice, name, Range="bytes=0-0", If_Range='"other"')
    assert (part.status, part.body) == (200, b"content")


async def test_head_says_the_length_and_sends_nothing(alice: Person) -> None:
    name = await upload(alice, b"x" * 500_000)
    got = await ask(alice, "HEAD", f"{V1}/download/{name}")
    assert (got.status, got.headers["Content-Length"], got.body) == (200, "500000", b"")
    assert (await download(alice, name)).status == 200


async def test_equal_contents_are_stored_once(server: Running, alice: Person) -> None:
    first, second = await upload(alice, b"same"), await upload(alice, b"same", "image/png")
    assert first != second
    assert files(server) == 1
    assert (await download(alice, second)).headers["Content-Type"] == "image/png"
    assert (await download(alice, first)).headers["Content-Type"] == "text/plain"


async def test_the_same_content_many_times_at_once(server: Running, alice: Person) -> None:
    content = b"many" * 100_000
    names = await asyncio.gather(*(upload(alice, content) for _ in range(20)))
    assert len(set(names)) == 20
    assert files(server) == 1
    assert (await download(alice, names[7])).body == content


async def test_names_that_are_none_are_not_found(server: Running, alice: Person) -> None:
    for name in (
        "test.example/unknown",
        "test.example/..%2F..%2Fhomeserver.db",
        "a%2Fb/x",
        "nonsense%0a/x",
    ):
        for path in (f"{V1}/download/{name}", f"{V3}/download/{name}"):
            got = await ask(alice, "GET", path)
            assert (got.status, json.loads(got.body)["errcode"]) == (404, "M_NOT_FOUND"), name


async def test_downloads_need_a_token_and_the_old_paths_are_frozen(
    server: Running, alice: Person
) -> None:
    name = await upload(alice, b"content")
    assert (await server.request("GET", f"{V1}/download/{name}")).status == 401
    for prefix in (V3, "/_matrix/media/r0", "/_matrix/media/v1"):
        reply = await server.request("GET", f"{prefix}/download/{name}")
        assert (reply.status, reply.errcode) == (404, "M_NOT_FOUND")


@pytest.mark.parametrize("settings", [{"media": {"unauthenticated": True}}])
async def test_the_old_paths_can_be_left_open(server: Running, alice: Person) -> None:
    name = await upload(alice, b"content")
    reply = await server.request("GET", f"/_matrix/media/r0/download/{name}")
    assert (reply.status, reply.body) == (200, b"content")


@pytest.mark.parametrize("settings", [{"registration": {"guests": True}}])
async def test_guests_may_look_but_not_upload(server: Running, alice: Person) -> None:
    name = await upload(alice, b"content")
    made = await server.request("POST", f"{CLIENT}/register", query={"kind": "guest"}, body={})
    guest = Person(server, made.body["user_id"], made.body["access_token"], "")
    assert (await download(guest, name)).status == 200
    got = await ask(guest, "POST", f"{V3}/upload", data=b"x")
    assert json.loads(got.body)["errcode"] == "M_GUEST_ACCESS_FORBIDDEN"


@pytest.mark.parametrize("settings", [{"media": {"max_upload_bytes": 1_000_000}}])
async def test_uploads_have_a_limit(server: Running, alice: Person) -> None:
    for path in (f"{V1}/config", f"{V3}/config"):
        assert await alice.ok("GET", path) == {"m.upload.size": 1_000_000}

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 10_000

    got = await ask(alice, "POST", f"{V3}/upload", data=b"x" * 1_000_001)
    assert (got.status, json.loads(got.body)["errcode"]) == (413, "M_TOO_LARGE")
    try:
        got = await ask(alice, "POST", f"{V3}/upload", data=endless())
        assert got.status == 413
    except aiohttp.ClientError:
        pass  # the connection was closed while the client was still sending
    assert files(server) == 0
    await upload(alice, b"x" * 1_000_000)


@pytest.mark.parametrize("settings", [{"media": {"user_bytes": 1_000_000, "user_files": 3}}])
async def test_users_have_a_quota(server: Running, alice: Person) -> None:
    await upload(alice, b"x" * 600_000)
    got = await ask(alice, "POST", f"{V3}/upload", data=b"y" * 500_000)
    assert (got.status, json.loads(got.body)["errcode"]) == (403, "M_FORBIDDEN")
    # All at once, and without saying how long they are, they do not pass it either.

    async def unsaid(letter: bytes) -> AsyncIterator[bytes]:
        for _ in range(30):
            yield letter * 10_000

    several = [ask(alice, "POST", f"{V3}/upload", data=unsaid(letter)) for letter in (b"a", b"b")]
    assert sorted([got.status for got in await asyncio.gather(*several)]) == [200, 403]
    await upload(alice, b"small")
    got = await ask(alice, "POST", f"{V3}/upload", data=b"a fourth")
    assert (got.status, json.loads(got.body)["errcode"]) == (403, "M_FORBIDDEN")
    assert files(server) == 3
    await upload(await server.person("bob"), b"x" * 600_000)


@pytest.mark.parametrize("settings", [{"media": {"user_bytes": 1_000_000}}])
async def test_what_was_stored_meanwhile_counts_too(server: Running, alice: Person) -> None:
    begun, stored = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * 200_000
        begun.set()
        await stored.wait()
        yield b"x" * 300_000

    late = asyncio.ensure_future(ask(alice, "POST", f"{V3}/upload", data=slow()))
    await begun.wait()
    await upload(alice, b"y" * 600_000)
    stored.set()
    assert (await late).status == 403
    # What is deleted makes room again.
    assert files(server) == 1


async def test_a_full_disk_refuses_and_leaves_nothing(
    server: Running, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        free = 1_000

    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Full())
    for size in (10, 2 * MEGABYTE):
        got = await ask(alice, "POST", f"{V3}/upload", data=BytesIO(b"x" * size))
        assert (got.status, json.loads(got.body)["errcode"]) == (507, "M_UNKNOWN")
    assert files(server) == 0
    monkeypatch.undo()
    await upload(alice, b"x" * 10)


async def test_an_upload_that_breaks_off_leaves_nothing(server: Running, alice: Person) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 300_000
        raise OSError("the line is cut")

    with pytest.raises((aiohttp.ClientError, OSError)):
        await ask(alice, "POST", f"{V3}/upload", data=broken())
    for _ in range(200):
        await asyncio.sleep(0.01)
        if files(server) == 0:
            break
    assert files(server) == 0


class TestLaterUploads:
    """spec: client-server-api#post_matrixmediav1create"""

    async def created(self, person: Person) -> tuple[str, Any]:
        answer = await person.ok("POST", "/_matrix/media/v1/create")
        return answer["content_uri"].removeprefix("mxc://"), answer["unused_expires_at"]

    async def put(self, person: Person, name: str, content: bytes = b"content") -> tuple[int, Any]:
        got = await ask(person, "PUT", f"{V3}/upload/{name}", data=content)
        return got.status, json.loads(got.body)

    async def test_the_content_follows_once(self, server: Running, alice: Person) -> None:
        name, expires = await self.created(alice)
        assert expires == server.clock.now_ms() + 24 * 3_600_000
        assert await self.put(alice, name) == (200, {})
        assert (await download(alice, name)).body == b"content"
        status, body = await self.put(alice, name)
        assert (status, body["errcode"]) == (409, "M_CANNOT_OVERWRITE_MEDIA")

    async def test_who_asks_too_early_waits(self, server: Running, alice: Person) -> None:
        name, _ = await self.created(alice)
        asked = asyncio.ensure_future(download(alice, name))
        await asyncio.sleep(0.05)
        assert not asked.done()
        await self.put(alice, name)
        assert (await asked).body == b"content"

    async def test_who_waits_in_vain_is_told(self, server: Running, alice: Person) -> None:
        name, _ = await self.created(alice)
        got = await ask(alice, "GET", f"{V1}/download/{name}", params={"timeout_ms": "0"})
        assert (got.status, json.loads(got.body)["errcode"]) == (504, "M_NOT_YET_UPLOADED")

    async def test_only_its_maker_fills_it(self, server: Running, alice: Person) -> None:
        name, _ = await self.created(alice)
        status, body = await self.put(await server.person("bob"), name)
        assert (status, body["errcode"]) == (403, "M_FORBIDDEN")

    async def test_it_expires(self, server: Running, alice: Person) -> None:
        name, _ = await self.created(alice)
        await server.clock.advance(24 * 3_600 + 1)
        status, body = await self.put(alice, name)
        assert (status, body["errcode"]) == (404, "M_NOT_FOUND")
        status, body = await self.put(alice, "test.example/never")
        assert (status, body["errcode"]) == (404, "M_NOT_FOUND")
        assert (await download(alice, name)).status == 404

    @pytest.mark.parametrize("settings", [{"media": {"max_pending": 2}}])
    async def test_nobody_holds_many(self, alice: Person) -> None:
        first, _ = await self.created(alice)
        await self.created(alice)
        await alice.refused("M_LIMIT_EXCEEDED", "POST", "/_matrix/media/v1/create")
        await self.put(alice, first)
        await self.created(alice)
