"""Copies of an SQLite file: exported ones, and the one that takes its place under another key.

Both are made by `VACUUM INTO`, one snapshot of everything, under a name of their own; they get
their final name when they are whole and on the disk. So whoever is killed here leaves the old file
or the new one, never a part. An export needs no lock and may run beside the server; `rekey` holds
the file for itself. A copy that was given up is removed by the next opening of the file.
"""

import contextlib
import os
import secrets
import shutil
from pathlib import Path
from urllib.parse import quote

import apsw

from storage.engine import StorageError
from storage.sqlite_file import DatabaseFile, open_file, read_key, rekeyed_path

_CIPHER = "aegis"


def new_key_file(path: Path) -> None:
    """Make a file with a new random key that only its owner may read; raises `StorageError`."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise StorageError(f"{path} can't be made: {error.strerror}") from error
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32) + "\n")
        file.flush()
        os.fsync(file.fileno())
    _sync(path.parent)


def export(path: Path, key_file: Path | None, target: Path, target_key: Path | None) -> int:
    """Copy the database into the new file `target`; the size of the copy in bytes.

    `target_key` is the key file of the copy, None makes it readable by everything. The database may
    be in use. Raises `StorageError`; then there is no `target`.
    """
    if target.exists():
        raise StorageError(f"{target} exists already; it was left as it is")
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    connection = open_file(path, key_file, existing=True)
    try:
        connection.wal_autocheckpoint(0)
        _copy(connection, draft, target_key)
        os.link(draft, target)
        _sync(target.parent)
    except OSError as error:
        raise StorageError(f"{target} can't be written: {error.strerror}") from error
    finally:
        connection.close()
        draft.unlink(missing_ok=True)
    return target.stat().st_size


def rekey(path: Path, key_file: Path | None, new_key: Path | None) -> None:
    """Have the database of `path` encrypted with the key in `new_key`, or with None readable.

    Raises `StorageError` (`DatabaseInUse` while a server runs); then nothing has changed.
    """
    if not path.exists():
        raise StorageError(f"{path} does not exist")
    draft = rekeyed_path(path)
    file = DatabaseFile(path, key_file=key_file, durable=True)
    try:
        connection = open_file(path, key_file, existing=True)
        try:
            # The log goes into the file and away: it would not fit the new one.
            connection.set_busy_timeout(10_000)
            if connection.pragma("journal_mode", "delete") != "delete":
                raise StorageError(f"{path} is being read by another process")
            _copy(connection, draft, new_key)
        except apsw.BusyError:
            raise StorageError(f"{path} is being read by another process") from None
        finally:
            connection.close()
        os.replace(draft, path)
        _sync(path.parent)
    except OSError as error:
        raise StorageError(f"{path} can't be replaced: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)
        file.release()


def _copy(connection: apsw.Connection, target: Path, key_file: Path | None) -> None:
    """A whole and checked copy in the file `target`, on the disk."""
    key = "" if key_file is None else f"raw:{read_key(key_file)}"
    (size,) = connection.execute(
        "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    ).fetchone() or (0,)
    free = shutil.disk_usage(target.parent).free
    if free < size:
        raise StorageError(
            f"{target.parent} has {free >> 20} MiB left; the copy may need {size >> 20} MiB"
        )
    with contextlib.suppress(FileNotFoundError):
        target.unlink()
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    uri = f"file:{quote(str(target.absolute()))}?cipher={_CIPHER}&key={key}"
    try:
        connection.execute("VACUUM INTO ?", (uri if key else f"{uri.partition('?')[0]}?key=",))
    except (apsw.FullError, apsw.IOError) as error:
        raise StorageError(f"{target} can't be written: {error}") from error
    copied = open_file(target, key_file, existing=True)
    try:
        ((found,),) = copied.execute("PRAGMA quick_check(1)").fetchall()
        if found != "ok":
            raise StorageError(f"the copy is not sound, nothing was replaced: {found}")
    finally:
        copied.close()
    _sync(target)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
