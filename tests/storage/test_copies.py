"""Keys and copies of the embedded database: always one whole database, never two halves."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from storage.changes import Insert, Item
from storage.engine import DatabaseInUse, DatabaseSettings, StorageError, open_database
from storage.schema import NameRow
from storage.sqlite_copies import export, new_key_file, rekey

SECRET = "a name that stands nowhere else"
ROWS = 2_000


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    new_key_file(path)
    return path


async def filled(path: Path, key_file: Path | None) -> None:
    database = await open_database(DatabaseSettings(path=path, key_file=key_file, durable=False))
    rows = [Insert(NameRow(n, f"{SECRET} {n}")) for n in range(1, ROWS + 1)]
    await database.commit([Item(rows)])
    await database.close()


async def content(path: Path, key_file: Path | None) -> int:
    database = await open_database(DatabaseSettings(path=path, key_file=key_file, durable=False))
    try:
        return len(await database.scan("SELECT name FROM names WHERE name_nid > ?", 0))
    finally:
        await database.close()


def plain(path: Path) -> bool:
    """Whether the file, or one beside it with its name, shows what was written."""
    files = [file for file in path.parent.glob(path.name + "*") if file.is_file()]
    return any(SECRET.encode() in file.read_bytes() for file in files)


def test_a_key_file_is_private_and_never_overwritten(key: Path) -> None:
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_text().strip()) == 64
    with pytest.raises(StorageError, match="exists"):
        new_key_file(key)


def test_encrypted_changed_and_decrypted(tmp_path: Path, key: Path) -> None:
    path, other = tmp_path / "test.db", tmp_path / "other"
    new_key_file(other)
    asyncio.run(filled(path, None))
    assert plain(path)
    for old, new in ((None, key), (key, other), (other, None)):
        rekey(path, old, new)
        assert plain(path) == (new is None)
        if old != new:
            with pytest.raises(StorageError):
                asyncio.run(content(path, old))
        assert asyncio.run(content(path, new)) == ROWS
    assert sorted(file.name for file in tmp_path.glob("test.db*")) == ["test.db", "test.db.lock"]


def test_what_is_wrong_with_a_key_is_said(tmp_path: Path, key: Path) -> None:
    path, other = tmp_path / "test.db", tmp_path / "other"
    new_key_file(other)
    asyncio.run(filled(path, key))
    with pytest.raises(StorageError, match="must name its key"):
        rekey(path, None, other)
    with pytest.raises(StorageError, match="does not fit"):
        rekey(path, other, None)
    with pytest.raises(StorageError, match="can't be read"):
        rekey(path, key, tmp_path / "absent")
    rekey(path, key, None)
    with pytest.raises(StorageError, match="is not encrypted, but"):
        asyncio.run(content(path, key))
    assert asyncio.run(content(path, None)) == ROWS


async def test_a_database_in_use_keeps_its_key(tmp_path: Path, key: Path) -> None:
    path = tmp_path / "test.db"
    await filled(path, None)
    database = await open_database(DatabaseSettings(path=path))
    with pytest.raises(DatabaseInUse):
        rekey(path, None, key)
    assert (await database.fetch("SELECT name FROM names WHERE name_nid = ?", 1))[0][0]
    await database.close()
    assert await content(path, None) == ROWS


async def test_a_copy_is_of_one_moment_beside_a_writer(tmp_path: Path, key: Path) -> None:
    path = tmp_path / "test.db"
    await filled(path, key)
    database = await open_database(DatabaseSettings(path=path, key_file=key, durable=False))
    made = ROWS
    for copy, target_key in (("same", key), ("plain", None)):
        exporting = asyncio.create_task(
            asyncio.to_thread(export, path, key, tmp_path / copy, target_key)
        )
        while not exporting.done():
            pair = [Insert(NameRow(made + 1, f"{made}")), Insert(NameRow(made + 2, f"{made}x"))]
            await database.commit([Item(pair)])
            made += 2
        assert await exporting > 0
        assert plain(tmp_path / copy) == (target_key is None)
        assert await content(tmp_path / copy, target_key) % 2 == ROWS % 2
    await database.close()
    assert await content(path, key) == made
    with pytest.raises(StorageError, match="exists already"):
        export(path, key, tmp_path / "same", key)


def test_what_is_not_there_is_not_made(tmp_path: Path) -> None:
    for act in (
        lambda: rekey(tmp_path / "absent.db", None, None),
        lambda: export(tmp_path / "absent.db", None, tmp_path / "copy", None),
    ):
        with pytest.raises(StorageError, match="does not exist"):
            act()
    assert list(tmp_path.iterdir()) == []


CHILD = """
import os, signal, sys
from pathlib import Path
from storage import sqlite_copies as copies
path, key, step = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
def dying(act, before):
    def wrapped(*args):
        if not before:
            act(*args)
        os.kill(os.getpid(), signal.SIGKILL)
    return wrapped
if step == "nearly copied":
    copies._sync = dying(copies._sync, True)
if step == "copied":
    copies._sync = dying(copies._sync, False)
if step == "nearly replaced":
    os.replace = dying(os.replace, True)
if step == "replaced":
    os.replace = dying(os.replace, False)
copies.rekey(path, None, key)
"""


@pytest.mark.parametrize(
    "step", ["in the middle", "nearly copied", "copied", "nearly replaced", "replaced"]
)
def test_killed_while_the_key_changes(tmp_path: Path, key: Path, step: str) -> None:
    path = tmp_path / "test.db"
    asyncio.run(filled(path, None))
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path), str(key), step])
    draft = tmp_path / "test.db.rekey"
    while step == "in the middle" and child.poll() is None:
        if draft.exists():
            child.kill()
    child.wait(60)
    if step != "in the middle":
        assert child.returncode == -9
    with path.open("rb") as file:
        old = file.read(15) == b"SQLite format 3"
    assert asyncio.run(content(path, None if old else key)) == ROWS
    assert not draft.exists()
    if step == "replaced":
        assert not old
    if old:
        rekey(path, None, key)
        assert asyncio.run(content(path, key)) == ROWS
