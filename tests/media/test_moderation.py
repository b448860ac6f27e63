"""Administrators hide, block, delete and check files."""

import hashlib
from typing import Any

import pytest

from tests.media.sending import V3, ask, download, upload
from tests.media.test_thumbnails import opened, picture, thumbnail
from tests.serving import Person, Running

PATH = "/_homeserver/admin/v1/media"


@pytest.fixture
async def admin(server: Running) -> Person:
    return await server.person("admin", admin=True)


@pytest.fixture
async def alice(server: Running, admin: Person) -> Person:
    """Not the first account, which would be an administrator's."""
    return await server.person("alice")


async def act(admin: Person, what: str, name: str, **more: Any) -> Any:
    return await admin.ok("POST", f"{PATH}/{what}", body={"name": name, **more})


async def faults(admin: Person) -> list[Any]:
    return list((await admin.ok("GET", f"{PATH}/faults"))["faults"])


def files(server: Running) -> int:
    """How many files lie in the folder of media, drafts included, whatever they are called."""
    paths = [path for path in server.config.media.dir.rglob("*") if path.is_file()]
    return len({path.stat().st_ino for path in paths})


async def test_what_is_hidden_is_so_under_every_name(
    server: Running, alice: Person, admin: Person
) -> None:
    content = picture(500, 500)
    name, same = [await upload(alice, content, "image/png") for _ in range(2)]
    opened(await thumbnail(alice, name, 32, 32, method="crop"))
    hidden = await act(admin, "quarantine", f"mxc://{name}", reason="why")
    assert hidden == {"hash": hashlib.sha256(content).hexdigest()}
    again = await upload(alice, content, "image/png")
    await server.restart()
    for one in (name, same, again):
        assert (await download(alice, one)).status == 404
        assert (await thumbnail(alice, one, 32, 32, method="crop")).status == 404
    (shown,) = (await admin.ok("GET", PATH))["hidden"]
    assert (shown["hash"], shown["blocked"], shown["reason"]) == (hidden["hash"], False, "why")
    await act(admin, "release", f"mxc://{name}")
    assert (await download(alice, same)).body == content
    assert await faults(admin) == []


async def test_what_is_blocked_is_gone_and_does_not_come_back(
    server: Running, alice: Person, admin: Person
) -> None:
    content = picture(500, 500)
    name = await upload(alice, content, "image/png")
    opened(await thumbnail(alice, name, 32, 32, method="crop"))
    assert files(server) == 2
    digest = (await act(admin, "block", f"mxc://{name}"))["hash"]
    assert files(server) == 0
    assert (await download(alice, name)).status == 404
    refused = await ask(alice, "POST", f"{V3}/upload", data=content)
    assert (refused.status, b"M_FORBIDDEN" in refused.body) == (403, True)
    assert await faults(admin) == []
    await act(admin, "release", digest)
    assert (await download(alice, await upload(alice, content))).body == content


async def test_a_content_goes_with_its_last_name(
    server: Running, alice: Person, admin: Person
) -> None:
    names = [await upload(alice, b"content") for _ in range(2)]
    await act(admin, "delete", f"mxc://{names[0]}")
    assert (await download(alice, names[0])).status == 404
    assert (await download(alice, names[1])).body == b"content"
    await act(admin, "delete", f"mxc://{names[1]}")
    assert files(server) == 0
    assert await faults(admin) == []


async def test_only_administrators_and_only_what_is_there(alice: Person, admin: Person) -> None:
    name = f"mxc://{await upload(alice, b'content')}"
    for what in ("quarantine", "block", "release", "delete"):
        await alice.refused("M_FORBIDDEN", "POST", f"{PATH}/{what}", body={"name": name})
        missing = {"name": "mxc://test.example/nothing"}
        await admin.refused("M_NOT_FOUND", "POST", f"{PATH}/{what}", body=missing)
        wrong = {"name": "https://test.example/x"}
        await admin.refused("M_INVALID_PARAM", "POST", f"{PATH}/{what}", body=wrong)
    await alice.refused("M_FORBIDDEN", "GET", PATH)
    await alice.refused("M_FORBIDDEN", "GET", f"{PATH}/faults")
    await alice.refused("M_FORBIDDEN", "POST", f"{PATH}/purge", body={"before_ts": 0})
    await admin.refused("M_NOT_FOUND", "POST", f"{PATH}/release", body={"name": name})


async def test_what_is_not_as_it_should_be_is_found(
    server: Running, alice: Person, admin: Person
) -> None:
    contents = {what: what.encode() for what in ("missing", "short", "well")}
    for content in contents.values():
        await upload(alice, content)
    places = {
        what: server.app.services.media.files.disk.path(hashlib.sha256(content).digest())
        for what, content in contents.items()
    }
    places["missing"].unlink()
    places["short"].write_bytes(b"s")
    unknown = places["well"].with_name("00" * 32)
    unknown.write_bytes(b"unknown")
    digests = {what: hashlib.sha256(content).hexdigest() for what, content in contents.items()}
    assert sorted((fault["hash"], fault["what"]) for fault in await faults(admin)) == sorted(
        [
            (digests["missing"], "the file is missing"),
            (digests["short"], "the file has another size"),
            (unknown.name, "the file is not known"),
        ]
    )
