"""Smaller forms of pictures; spec: client-server-api#thumbnails."""

import asyncio
import random
import signal
import struct
import zlib
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from homeserver.media import shrinkers
from homeserver.media.shrinkers import Box
from homeserver.media.thumbnails import fitting
from tests.media.sending import V1, V3, Got, ask, upload
from tests.serving import Person, Running


def picture(width: int, height: int, kind: str = "PNG", mode: str = "RGB", **more: Any) -> bytes:
    made = Image.linear_gradient("L").resize((width, height)).convert(mode)
    out = BytesIO()
    made.save(out, kind, **more)
    return out.getvalue()


def animation(width: int, height: int, frames: int, kind: str) -> bytes:
    made = [Image.new("RGB", (width, height), (40 * n, 0, 0)) for n in range(frames)]
    out = BytesIO()
    made[0].save(out, kind.upper(), save_all=True, append_images=made[1:], duration=50)
    return out.getvalue()


async def thumbnail(person: Person, name: str, width: int, height: int, **query: str) -> Got:
    params = {"width": str(width), "height": str(height), **query}
    return await ask(person, "GET", f"{V1}/thumbnail/{name}", params=params)


def opened(got: Got) -> Image.Image:
    assert got.status == 200, got.body
    return Image.open(BytesIO(got.body))


@pytest.fixture
async def alice(server: Running) -> Person:
    return await server.person("alice")


async def test_a_picture_gets_smaller_and_keeps_its_form(alice: Person) -> None:
    name = await upload(alice, picture(1000, 500), "image/png")
    got = await thumbnail(alice, name, 300, 200)
    assert opened(got).size == (320, 160)
    assert got.headers["Content-Type"] == "image/jpeg"
    assert got.headers["Content-Disposition"].startswith("inline")
    assert got.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert "sandbox" in got.headers["Content-Security-Policy"]
    assert opened(await thumbnail(alice, name, 32, 32, method="crop")).size == (32, 32)
    assert opened(await thumbnail(alice, name, 5000, 5000)).size == (800, 400)
    again = await thumbnail(alice, name, 300, 200)
    assert again.body == got.body


async def test_a_small_picture_is_not_made_larger(alice: Person) -> None:
    content = picture(20, 10)
    name = await upload(alice, content, "image/png")
    for method in ("crop", "scale"):
        got = await thumbnail(alice, name, 96, 96, method=method)
        assert (got.body, got.headers["Content-Type"]) == (content, "image/png")


async def test_what_shines_through_stays_so(alice: Person) -> None:
    name = await upload(alice, picture(400, 400, mode="LA"), "image/png")
    got = await thumbnail(alice, name, 96, 96, method="crop")
    assert got.headers["Content-Type"] == "image/png"
    assert opened(got).mode == "RGBA"


async def test_a_photograph_stands_upright(alice: Person) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    name = await upload(alice, picture(1000, 500, "JPEG", exif=exif), "image/jpeg")
    small = opened(await thumbnail(alice, name, 640, 480))
    assert small.size == (240, 480)
    assert small.getexif().get(0x0112) is None


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
async def test_only_who_asks_for_it_gets_a_moving_one(alice: Person, kind: str) -> None:
    name = await upload(alice, animation(400, 300, 3, kind), f"image/{kind}")
    still = await thumbnail(alice, name, 300, 200)
    assert getattr(opened(still), "n_frames", 1) == 1
    moving = await thumbnail(alice, name, 300, 200, animated="true")
    assert moving.headers["Content-Type"] == "image/webp"
    shown: Any = opened(moving)
    assert (shown.size, shown.n_frames) == ((320, 240), 3)
    # A small one is itself its still form only where it stands still.
    small = animation(20, 20, 3, kind)
    name = await upload(alice, small, f"image/{kind}")
    assert (await thumbnail(alice, name, 32, 32, method="crop", animated="true")).body == small
    assert getattr(opened(await thumbnail(alice, name, 32, 32, method="crop")), "n_frames", 1) == 1


def bomb() -> bytes:
    """A small PNG that says to be 60,000 pixels wide and high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1_000_000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (bomb(), "image/png"),
        (picture(500, 500)[:200], "image/png"),
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/png"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
        (picture(500, 500), "text/plain"),
        (b"", "image/gif"),
    ],
)
async def test_what_is_no_harmless_picture_has_none(
    alice: Person, content: bytes, kind: str
) -> None:
    name = await upload(alice, content, kind)
    for _ in range(2):
        got = await thumbnail(alice, name, 32, 32, method="crop")
        assert (got.status, b"M_UNKNOWN" in got.body) == (400, True)
    good = await upload(alice, picture(500, 500), "image/png")
    assert opened(await thumbnail(alice, good, 32, 32, method="crop")).size == (32, 32)


@pytest.mark.parametrize(
    ("query", "errcode"),
    [
        ({"width": "0", "height": "10"}, b"M_INVALID_PARAM"),
        ({"width": "10"}, b"M_MISSING_PARAM"),
        ({"width": "-1", "height": "10"}, b"M_INVALID_PARAM"),
        ({"width": "10", "height": "10", "method": "stretch"}, b"M_INVALID_PARAM"),
    ],
)
async def test_sizes_that_are_none(alice: Person, query: dict[str, str], errcode: bytes) -> None:
    name = await upload(alice, picture(50, 50), "image/png")
    got = await ask(alice, "GET", f"{V1}/thumbnail/{name}", params=query)
    assert (got.status, errcode in got.body) == (400, True)


async def test_many_at_once_are_made_once(server: Running, alice: Person) -> None:
    name = await upload(alice, picture(600, 600), "image/png")
    made = await asyncio.gather(*(thumbnail(alice, name, 96, 96, method="crop") for _ in range(8)))
    assert len({got.body for got in made}) == 1
    files = [path for path in server.config.media.dir.rglob("*") if path.is_file()]
    assert len({path.stat().st_ino for path in files}) == 2


async def test_the_next_picture_is_read_when_the_process_has_died(
    server: Running, alice: Person
) -> None:
    for number in range(2):
        name = await upload(alice, picture(500 + number, 500), "image/png")
        assert opened(await thumbnail(alice, name, 32, 32, method="crop")).size == (32, 32)
        made = server.app.services.media.thumbnails._shrinkers  # noqa: SLF001
        for process in made._idle:  # noqa: SLF001 (the processes show in no answer)
            process.kill()
            await process.wait()


async def test_one_that_takes_too_long_is_given_up(
    server: Running, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a picture that keeps its reader busy: here the reader has been stopped."""
    first = await upload(alice, picture(500, 500), "image/png")
    opened(await thumbnail(alice, first, 32, 32, method="crop"))
    (process,) = server.app.services.media.thumbnails._shrinkers._idle  # noqa: SLF001
    process.send_signal(signal.SIGSTOP)
    slow = await upload(alice, picture(501, 500), "image/png")
    with monkeypatch.context() as patch:
        patch.setattr(shrinkers, "SECONDS", 0.2)
        # Another one is started, which may or may not be as fast as that.
        assert (await thumbnail(alice, slow, 32, 32, method="crop")).status in {200, 400}
    assert process.returncode is not None
    assert opened(await thumbnail(alice, first, 96, 96, method="crop")).size == (96, 96)


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp", "avif"])
async def test_damaged_pictures_harm_nobody(alice: Person, kind: str) -> None:
    out = BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((300, 200)).save(out, kind.upper())
    whole, chance = out.getvalue(), random.Random(kind)
    for _ in range(12):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 30)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        del damaged[chance.randrange(len(damaged) // 2, len(damaged) + 1) :]
        name = await upload(alice, bytes(damaged), f"image/{kind}")
        got = await thumbnail(alice, name, 32, 32, method="crop")
        assert got.status in {200, 400}, got.body
    good = await upload(alice, whole, f"image/{kind}")
    assert opened(await thumbnail(alice, good, 32, 32, method="crop")).size == (32, 32)


async def test_the_old_path_shows_only_what_was_there_before(alice: Person) -> None:
    name = await upload(alice, picture(500, 500), "image/png")
    got = await ask(alice, "GET", f"{V3}/thumbnail/{name}", params={"width": "32", "height": "32"})
    assert (got.status, b"M_NOT_FOUND" in got.body) == (404, True)


@pytest.mark.parametrize(
    ("width", "height", "crop", "expected"),
    [
        (1, 1, True, (32, 32, True)),
        (33, 20, True, (96, 96, True)),
        (32, 32, False, (320, 240, False)),
        (100, 100, True, (320, 240, False)),
        (641, 1, False, (800, 600, False)),
        (9_000, 9_000, True, (800, 600, False)),
    ],
)
def test_the_next_larger_size_is_taken(
    width: int, height: int, crop: bool, expected: tuple[int, int, bool]
) -> None:
    assert fitting(Box(width, height, crop, False)) == Box(*expected, False)
