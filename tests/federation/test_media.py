"""Files of other servers, and ours for them; spec: server-server-api#content-repository."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
import trustme
from aiohttp import web
from PIL import Image

from federation.multipart import Parts, boundary_of
from homeserver.matrix.errors import Malformed
from tests.federation.house import HERE, Guest, House, HouseServer, house
from tests.serving import Person, Reply

pytestmark = pytest.mark.asyncio(loop_scope="module")

V1 = "/_matrix/client/v1/media"
V3 = "/_matrix/media/v3"
SMALL = "[media]\nmax_remote_bytes = 200_000\nremote_cache_bytes = 500_000\nredacted_hours = 0"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with house(authority, tmp_path_factory.mktemp("media")) as house_made:
        house_made.server("b.example", options=SMALL)
        await house_made.start("a.example", "b.example")
        await house_made.guest("guest.example")
        yield house_made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alice(made: House) -> Person:
    return await made.servers["a.example"].person("alice")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bob(made: House) -> Person:
    return await made.servers["b.example"].person("bob")


@pytest.fixture
def guest(made: House) -> Guest:
    return made.guests["guest.example"]


def noise(size: int, seed: str) -> bytes:
    return hashlib.shake_128(seed.encode()).digest(size)


async def upload(person: Person, content: bytes, filename: str = "file") -> str:
    reply = await person.raw("POST", f"{V3}/upload", data=content, query={"filename": filename})
    assert reply.status == 200, reply.body
    return str(reply.body["content_uri"]).removeprefix("mxc://")


async def download(person: Person, name: str) -> Reply:
    return await person.raw("GET", f"{V1}/download/{name}")


def blobs(server: HouseServer) -> int:
    """The bytes of all files that a server keeps."""
    files = (server.folder / "media" / "blobs").rglob("*")
    return sum(path.stat().st_size for path in files if path.is_file())


async def test_a_file_comes_from_the_server_that_has_it(alice: Person, bob: Person) -> None:
    content = noise(150_000, "a file")
    name = await upload(alice, content, "Grüße.bin")
    for _ in range(2):
        got = await download(bob, name)
        assert (got.status, got.body) == (200, content)
        assert got.headers["Content-Type"] == "application/octet-stream"
        assert quote("Grüße.bin") in got.headers["Content-Disposition"]
    part = await bob.server.request(
        "GET", f"{V1}/download/{name}", token=bob.token, query={"timeout_ms": 0}
    )
    assert part.body == content


async def test_many_who_ask_at_once_make_one_request(bob: Person, guest: Guest) -> None:
    asked = 0

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return multipart(b"once")

    guest.answer = answer
    got = await asyncio.gather(*(download(bob, "guest.example/once") for _ in range(6)))
    assert [reply.body for reply in got] == [b"once"] * 6
    assert asked == 1


async def test_a_picture_is_made_smaller_here(made: House, alice: Person, bob: Person) -> None:
    out = BytesIO()
    Image.linear_gradient("L").resize((900, 600)).save(out, "PNG")
    reply = await post_picture(alice, out.getvalue())
    path = f"{V1}/thumbnail/{reply}"
    query = {"width": 96, "height": 96, "method": "crop"}
    small = await bob.raw("GET", path, query=query)
    assert Image.open(BytesIO(small.body)).size == (96, 96)
    # And by the server that has it, for servers that ask for that.
    a, b = made.servers["a.example"], made.servers["b.example"]
    target = f"/_matrix/federation/v1/media/thumbnail/{reply.partition('/')[2]}"
    answered = await made.request_as(b, a, "GET", target + "?width=96&height=96&method=crop")
    assert await second_part(answered) == small.body


async def test_what_is_taken_back_goes_elsewhere_too(
    made: House, alice: Person, bob: Person
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    path = f"/join/{quote(room_id)}?server_name=a.example"
    await bob.ok("POST", path, body={})
    names = [await upload(alice, noise(1_000, word)) for word in ("taken back", "kept")]
    sent = []
    for name in names:
        content = {"msgtype": "m.image", "body": "", "url": f"mxc://{name}"}
        sent.append(await alice.send(room_id, "m.room.message", content))
        assert (await download(bob, name)).status == 200
    server = made.servers["b.example"]
    before = blobs(server)
    await alice.ok("PUT", f"/rooms/{quote(room_id)}/redact/{quote(sent[0])}/1", body={})
    shown = f"/rooms/{quote(room_id)}/event/{quote(sent[0])}"
    while True:
        if not (await bob.ok("GET", shown))["content"]:
            break
        await asyncio.sleep(0.01)
    # What is due goes when a server starts, and then again and again.
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)
    while True:
        if blobs(server) == before - 1_000:
            break
        await asyncio.sleep(0.01)


async def post_picture(person: Person, content: bytes) -> str:
    server = person.server
    assert isinstance(server, HouseServer)
    headers = {"Authorization": f"Bearer {person.token}", "Content-Type": "image/png"}
    url = f"{server.url}{V3}/upload"
    async with server.house.http.post(url, data=content, headers=headers) as answer:
        return str((await answer.json())["content_uri"]).removeprefix("mxc://")


async def second_part(reply: Reply) -> bytes:
    boundary = boundary_of(reply.headers["Content-Type"])
    assert boundary is not None

    async def whole() -> AsyncIterator[bytes]:
        yield reply.body

    read = Parts(whole(), boundary)
    assert (await read.head())["content-type"] == "application/json"
    assert b"".join([piece async for piece in read.body()]) == b"{}"
    await read.head()
    return b"".join([piece async for piece in read.body()])


async def test_only_servers_get_our_files_and_only_ours(
    made: House, alice: Person, guest: Guest
) -> None:
    a = made.servers["a.example"]
    name = await upload(alice, b"content")
    target = f"/_matrix/federation/v1/media/download/{name.partition('/')[2]}"
    assert await second_part(await guest.request(a, "GET", target)) == b"content"
    admin = (a.folder / "admin.token").read_text().strip()
    for what, status in (("quarantine", 404), ("release", 200)):
        path, body = f"/_homeserver/admin/v1/media/{what}", {"name": f"mxc://{name}"}
        assert (await a.request("POST", path, token=admin, body=body)).status == 200
        assert (await guest.request(a, "GET", target)).status == status
    missing = await guest.request(a, "GET", "/_matrix/federation/v1/media/download/nothing")
    assert (missing.status, missing.body["errcode"]) == (404, "M_NOT_FOUND")
    url = f"https://127.0.0.1:{a.federation_port}{target}"
    async with made.http.get(url, ssl=made.trust, server_hostname="a.example") as unsigned:
        assert unsigned.status == 401


async def test_a_file_that_vanished_comes_again(made: House, alice: Person, bob: Person) -> None:
    content = noise(1_000, "vanished")
    name = await upload(alice, content)
    assert (await download(bob, name)).body == content
    digest = hashlib.sha256(content).hexdigest()
    (path,) = (made.servers["b.example"].folder / "media" / "blobs").rglob(digest)
    path.unlink()
    assert (await download(bob, name)).body == content
    assert path.exists()


async def test_the_room_for_others_files_is_kept_to(
    made: House, alice: Person, bob: Person
) -> None:
    names = [await upload(alice, noise(120_000, f"n{number}")) for number in range(6)]
    for number, name in enumerate(names):
        assert (await download(bob, name)).body == noise(120_000, f"n{number}")
        assert blobs(made.servers["b.example"]) <= 500_000 + 50_000
    # What had to go is there again when it is asked for.
    assert (await download(bob, names[0])).body == noise(120_000, "n0")


async def test_so_it_is_when_many_come_at_once(made: House, alice: Person, bob: Person) -> None:
    """With their smaller forms, which are files too."""
    server = made.servers["b.example"]
    names = [await upload(alice, noise(150_000, f"m{number}")) for number in range(10)]
    most = 0
    fetching = asyncio.gather(*(download(bob, name) for name in names))
    while not fetching.done():
        most = max(most, blobs(server))
        await asyncio.sleep(0.005)
    assert {reply.status for reply in await fetching} <= {200, 404}
    assert most <= 500_000 + 50_000
    pictures = []
    for number in range(8):
        out = BytesIO()
        colours = noise(3 * 200 * 200, f"p{number}")
        Image.frombytes("RGB", (200, 200), colours).resize((820, 620)).save(out, "JPEG", quality=30)
        pictures.append(await post_picture(alice, out.getvalue()))
    for name in pictures:
        for width, height, method in ((640, 480, "scale"), (800, 600, "scale"), (96, 96, "crop")):
            query = {"width": width, "height": height, "method": method}
            small = await bob.raw("GET", f"{V1}/thumbnail/{name}", query=query)
            assert small.status == 200, small.body
            assert blobs(server) <= 500_000 + 50_000
    token = (server.folder / "admin.token").read_text().strip()
    shown = await server.request("GET", "/_homeserver/admin/v1/media", token=token)
    assert 250_000 < shown.body["cached_bytes"] <= 500_000
    # And that is what is there, as a restart sees it.
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)
    token = (server.folder / "admin.token").read_text().strip()
    again = await server.request("GET", "/_homeserver/admin/v1/media", token=token)
    assert again.body["cached_bytes"] == shown.body["cached_bytes"]
    faults = await server.request("GET", "/_homeserver/admin/v1/media/faults", token=token)
    assert faults.body["faults"] == []


async def test_what_nobody_has(alice: Person, bob: Person) -> None:
    for name in ("a.example/nothing", "nowhere.example/nothing", "a.example/a.b", "a b/c"):
        got = await download(bob, quote(name, safe="/"))
        expected = (502, "M_UNKNOWN") if name.startswith("nowhere") else (404, "M_NOT_FOUND")
        assert (got.status, got.body["errcode"]) == expected
    got = await bob.raw("GET", f"{V3}/download/{await upload(alice, b'new')}")
    assert (got.status, got.body["errcode"]) == (404, "M_NOT_FOUND")


async def test_too_long_a_file_is_not_kept(made: House, alice: Person, bob: Person) -> None:
    before = blobs(made.servers["b.example"])
    got = await download(bob, await upload(alice, noise(200_001, "long")))
    assert (got.status, got.body["errcode"]) == (502, "M_TOO_LARGE")
    assert blobs(made.servers["b.example"]) == before


async def test_a_server_that_stalls_holds_up_no_other(
    alice: Person, bob: Person, guest: Guest
) -> None:
    """More of its files are asked for than may be fetched at once, and none comes."""
    name = await upload(alice, b"at once")
    begun, go_on = asyncio.Event(), asyncio.Event()
    asked = 0

    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        begun.set()
        await go_on.wait()
        return multipart(b"late")

    guest.answer = answer
    names = [f"guest.example/stalled{number}" for number in range(80)]
    waiting = [asyncio.ensure_future(download(bob, one)) for one in names]
    try:
        await begun.wait()
        assert (await download(bob, name)).body == b"at once"
        assert asked <= 4
    finally:
        go_on.set()
        got = await asyncio.gather(*waiting)
    assert {reply.body for reply in got} == {b"late"}


async def test_what_is_blocked_is_fetched_once(made: House, guest: Guest) -> None:
    b = made.servers["b.example"]
    admin = await b.person("watchful")
    token = (b.folder / "admin.token").read_text().strip()
    body = {"name": hashlib.sha256(b"blocked").hexdigest()}
    path = "/_homeserver/admin/v1/media/block"
    assert (await b.request("POST", path, token=token, body=body)).status == 200
    asked = 0

    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return multipart(b"blocked")

    guest.answer = answer
    for _ in range(3):
        got = await download(admin, "guest.example/blocked")
        assert (got.status, got.body["errcode"]) == (404, "M_NOT_FOUND")
    assert asked == 1


async def test_what_was_never_fetched_can_be_hidden_by_its_name(
    made: House, bob: Person, guest: Guest
) -> None:
    """Nobody has to fetch what must not be here."""
    b = made.servers["b.example"]
    token = (b.folder / "admin.token").read_text().strip()
    asked = asyncio.Event()
    go_on = asyncio.Event()

    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        asked.set()
        await go_on.wait()
        return multipart(b"found")

    async def act(what: str, name: str) -> Any:
        path = f"/_homeserver/admin/v1/media{what}"
        method = "POST" if what else "GET"
        body = {"name": f"mxc://{name}"} if what else None
        reply = await b.request(method, path, token=token, body=body)
        assert reply.status == 200, reply.body
        return reply.body

    guest.answer = answer
    for what in ("/quarantine", "/block"):
        name = f"guest.example/unseen{what[1:]}"
        assert (await act(what, name))["hash"] == f"mxc://{name}"
        assert (await act("", ""))["never_fetched"] == [f"mxc://{name}"]
        got = await download(bob, name)
        assert (got.status, got.body["errcode"]) == (404, "M_NOT_FOUND")
        assert not asked.is_set()
        # Also what is on its way just then.
        late = f"guest.example/late{what[1:]}"
        waiting = asyncio.ensure_future(download(bob, late))
        await asked.wait()
        await act(what, late)
        go_on.set()
        assert (await waiting).status == 404
        for one in (name, late):
            await act("/release", one)
            assert (await download(bob, one)).body == b"found"
        assert (await act("", ""))["never_fetched"] == []
        asked.clear()
        go_on.clear()


def multipart(content: bytes, head: str = "Content-Type: text/plain") -> web.Response:
    body = b"--x\r\nContent-Type: application/json\r\n\r\n{}\r\n--x\r\n"
    body += head.encode() + b"\r\n\r\n" + content + b"\r\n--x--"
    return web.Response(body=body, headers={"Content-Type": "multipart/mixed; boundary=x"})


async def test_a_file_may_be_elsewhere_but_not_in_our_own_house(bob: Person, guest: Guest) -> None:
    """This machine itself is allowed in these tests; other private addresses are not."""

    async def stored(request: web.BaseRequest) -> web.StreamResponse:
        assert "Authorization" not in request.headers
        if request.path == "/the-file":
            return web.Response(body=b"found", headers={"Content-Type": "text/plain"})
        return web.Response(status=302, headers={"Location": request.path})

    runner = web.ServerRunner(web.Server(stored))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    here = f"http://{HERE}:{runner.addresses[0][1]}"
    named = {
        "good": f"{here}/the-file",
        "loop": f"{here}/loop",
        "private": "http://192.168.0.1/x",
        "linklocal": "http://169.254.169.254/latest/meta-data",
        "file": "file:///etc/passwd",
    }

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return multipart(b"", f"Location: {named[request.path.rpartition('/')[2]]}")

    guest.answer = answer
    try:
        assert (await download(bob, "guest.example/good")).body == b"found"
        for name in ("loop", "private", "linklocal", "file"):
            got = await download(bob, f"guest.example/{name}")
            assert (got.status, got.body["errcode"]) == (502, "M_UNKNOWN")
    finally:
        await runner.cleanup()


async def test_an_old_server_is_asked_by_the_old_path(bob: Person, guest: Guest) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path.startswith("/_matrix/federation/"):
            return web.json_response({"errcode": "M_UNRECOGNIZED", "error": ""}, status=404)
        assert request.path == f"{V3}/download/guest.example/old"
        assert request.query["allow_remote"] == "false"
        assert "Authorization" not in request.headers
        headers = {"Content-Type": "text/x-old", "Content-Disposition": 'inline; filename="o.txt"'}
        return web.Response(body=b"old", headers=headers)

    guest.answer = answer
    got = await download(bob, "guest.example/old")
    assert (got.body, got.headers["Content-Type"]) == (b"old", "text/x-old")
    assert "o.txt" in got.headers["Content-Disposition"]


async def endless(request: web.BaseRequest) -> web.StreamResponse:
    stream = web.StreamResponse(headers={"Content-Type": "multipart/mixed; boundary=x"})
    await stream.prepare(request)
    await stream.write(b"--x\r\n\r\n{}\r\n--x\r\nContent-Type: text/plain\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        for _ in range(1_000):
            await stream.write(bytes(65_536))
    return stream


def plain(body: bytes, **headers: str) -> Any:
    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        given = {key.replace("_", "-"): value for key, value in headers.items()}
        return web.Response(body=body, headers=given)

    return answer


def parts(body: bytes, content_type: str = "multipart/mixed; boundary=x") -> Any:
    return plain(body, Content_Type=content_type)


@pytest.mark.parametrize(
    ("name", "answer", "errcode"),
    [
        ("endless", endless, "M_TOO_LARGE"),
        ("plain", parts(b"hello", "text/plain"), "M_UNKNOWN"),
        ("cut", parts(b"--x\r\n\r\n{}\r\n--x\r\n\r\nhel"), "M_UNKNOWN"),
        ("one", parts(b"--x\r\n\r\n{}\r\n--x--"), "M_UNKNOWN"),
        ("none", parts(b""), "M_UNKNOWN"),
        ("unbound", parts(b"--x\r\n\r\n{}", "multipart/mixed"), "M_UNKNOWN"),
        ("head", parts(b"--x\r\n" + b"a: b\r\n" * 9_000), "M_UNKNOWN"),
    ],
)
async def test_answers_that_make_no_sense_are_refused_and_remembered(
    made: House, bob: Person, guest: Guest, name: str, answer: Any, errcode: str
) -> None:
    before = blobs(made.servers["b.example"])
    guest.answer = answer
    for _ in range(2):
        got = await download(bob, f"guest.example/{name}")
        assert (got.status, got.body["errcode"]) == (502, errcode)
        guest.answer = plain(b"it would be right now", Content_Type="text/plain")
    assert blobs(made.servers["b.example"]) == before


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
async def test_parts_may_be_cut_anywhere(size: int) -> None:
    content = b"\r\n--bn" + b"\r\n-" * 9
    head = b"preamble\r\n--bnd\r\n\r\n{}\r\n--bnd \r\nA: 1\r\nb:2\r\n\r\n"
    body = head + content + b"\r\n--bnd--"

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]

    read = Parts(pieces(), "bnd")
    assert await read.head() == {}
    assert b"".join([piece async for piece in read.body()]) == b"{}"
    assert await read.head() == {"a": "1", "b": "2"}
    assert b"".join([piece async for piece in read.body()]) == content
    with pytest.raises(Malformed):
        await read.head()
