"""What is on the disk when an upload is answered, and what a start makes of what it finds there."""

import asyncio
import errno
import hashlib
import itertools
import os
import stat
import threading
from pathlib import Path

import pytest

from storage import keeping
from tests.media.sending import download, upload
from tests.media.test_moderation import files
from tests.serving import Person, Running


@pytest.fixture
async def alice(server: Running) -> Person:
    return await server.person("alice")


def named(server: Running, content: bytes) -> tuple[Path, Path]:
    """The name of a content, and the one that it has while it is in doubt."""
    path = server.app.services.media.files.disk.path(hashlib.sha256(content).digest())
    return path, server.config.media.dir / "drafts" / path.name


@pytest.mark.parametrize("settings", [{"database": {"synchronous": "full"}}])
async def test_file_and_name_are_synced_before_the_answer(
    server: Running, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    sync = os.fsync

    def fsync(handle: int) -> None:
        sync(handle)
        synced.append(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    for content in (b"small", b"large" * 100_000):
        synced.clear()
        await upload(alice, content)
        path, _ = named(server, content)
        drafts = server.config.media.dir / "drafts"
        inodes = [path.stat().st_ino, drafts.stat().st_ino]
        assert [one for one in synced if one in inodes] == inodes


@pytest.mark.parametrize("settings", [{"database": {"synchronous": "full"}}])
async def test_many_uploads_share_the_sync_of_their_names(
    server: Running, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = 0
    sync = os.fsync

    def fsync(handle: int) -> None:
        nonlocal shared
        sync(handle)
        drafts = server.config.media.dir / "drafts"
        shared += os.fstat(handle).st_ino == drafts.stat().st_ino

    monkeypatch.setattr(os, "fsync", fsync)
    contents = [b"%d" % number for number in range(40)]
    names = await asyncio.gather(*(upload(alice, content) for content in contents))
    assert shared < len(contents)
    for name, content in zip(names, contents, strict=True):
        assert (await download(alice, name)).body == content


async def test_a_file_system_without_hard_links_will_do(
    server: Running, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(first: str, second: str) -> None:
        raise OSError(errno.EOPNOTSUPP, "no hard links", second)

    monkeypatch.setattr(os, "link", link)
    for content in (b"small", b"large" * 100_000):
        name = await upload(alice, content)
        again = await upload(alice, content)
        await server.app.services.media.files.disk.flush()
        path, draft = named(server, content)
        assert path.exists()
        assert not draft.exists()
        for one in (name, again):
            assert (await download(alice, one)).body == content


async def test_the_second_name_goes_soon(
    server: Running, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "SETTLE_SECONDS", 0.0)
    await upload(alice, b"content")
    path, draft = named(server, b"content")
    for _ in range(500):
        if not draft.exists():
            break
        await asyncio.sleep(0.01)
    assert (path.exists(), draft.exists()) == (True, False)


async def test_a_name_that_a_power_cut_took_is_given_again(server: Running, alice: Person) -> None:
    name = await upload(alice, b"content")
    await server.app.services.media.files.disk.flush()
    path, draft = named(server, b"content")
    path.rename(draft)
    await server.restart()
    assert (await download(alice, name)).body == b"content"
    assert (path.exists(), draft.exists()) == (True, False)


async def test_what_has_no_row_goes_at_the_start(server: Running, alice: Person) -> None:
    path, draft = named(server, b"content")
    whole, torn = named(server, b"other")
    draft.write_bytes(b"content")
    path.hardlink_to(draft)
    torn.write_bytes(b"oth")
    await server.restart()
    assert files(server) == 0
    assert not whole.exists()
    name = await upload(alice, b"other")
    assert (await download(alice, name)).body == b"other"


async def test_what_lies_where_a_new_file_belongs_is_replaced(
    server: Running, alice: Person
) -> None:
    path, _ = named(server, b"content")
    path.write_bytes(b"con")
    name = await upload(alice, b"content")
    assert (await download(alice, name)).body == b"content"


async def test_files_in_folders_of_folders_are_taken_over(server: Running, alice: Person) -> None:
    """As they lay until 0.1.0."""
    name = await upload(alice, b"content")
    await server.app.services.media.files.disk.flush()
    path, _ = named(server, b"content")
    earlier = server.config.media.dir / "files"
    old = earlier / path.name[:2] / path.name[2:4] / path.name
    old.parent.mkdir(parents=True)
    path.rename(old)
    await server.restart()
    assert (await download(alice, name)).body == b"content"
    assert not earlier.exists()


async def test_a_slow_disk_syncs_many_files_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sync that is not the first waits until as many are under way as there may be."""
    keeper = keeping.Keeper(tmp_path, durable=True, keep_free=0)
    await keeper.open()
    others = threading.Barrier(keeping.SYNCERS)
    all_wait = threading.Event()
    numbers = itertools.count()
    sync = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            if next(numbers):
                others.wait(60)
            else:
                all_wait.wait(60)
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    names = [f"{number:064x}" for number in range(keeping.SYNCERS + 1)]
    puts = [asyncio.ensure_future(keeper.put(keeping.New(name, None, [b"x"]))) for name in names]
    await asyncio.sleep(0)
    all_wait.set()
    await asyncio.gather(*puts)
    assert sum(os.path.getsize(keeper.path(name)) for name in names) == len(names)  # noqa: ASYNC240
    await keeper.close()


async def test_a_file_that_can_not_be_synced_is_refused_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = keeping.Keeper(tmp_path, durable=True, keep_free=0)
    await keeper.open()
    sync = os.fsync

    def fsync(handle: int) -> None:
        if os.fstat(handle).st_size == 3:
            raise OSError(errno.EIO, "the disk fails")
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    contents = [b"a", b"bad", b"b"]
    puts = [
        keeper.put(keeping.New(f"{number:064x}", None, [content]))
        for number, content in enumerate(contents)
    ]
    first, bad, last = await asyncio.gather(*puts, return_exceptions=True)
    assert (first, last) == (None, None)
    assert isinstance(bad, OSError)
    assert not os.path.exists(keeper.path(f"{1:064x}"))  # noqa: ASYNC240
    await keeper.close()
