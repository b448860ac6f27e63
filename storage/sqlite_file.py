"""The database file of SQLite: who may open it, with which key, and with which settings.

One process at a time holds the file, by a lock on `<file>.lock` beside it that the system lets go
of when the process ends, however it ends. Connections differ by purpose in their cache only.
Nothing here knows of tables.
"""

import contextlib
import fcntl
import os
import re
from pathlib import Path

import apsw

from storage.engine import DatabaseInUse, StorageError

_KEY = re.compile(r"[0-9a-fA-F]{64}")
_PLAIN_HEADER = b"SQLite format 3\0"


class DatabaseFile:
    """The locked file; `connect` opens one more connection to it."""

    def __init__(self, path: Path, *, key_file: Path | None, durable: bool) -> None:
        self.path = path
        self._key_file = key_file
        self._key = None if key_file is None else read_key(key_file)
        self._synchronous = "FULL" if durable else "OFF"
        self._lock = _lock(path)
        with contextlib.suppress(OSError):
            rekeyed_path(path).unlink()  # a change of the key that was broken off

    def connect(self, *, cache_kib: int, read_only: bool = True) -> apsw.Connection:
        """A connection with a page cache of at most `cache_kib`; raises `StorageError`."""
        connection = _open(self.path, self._key, self._key_file)
        try:
            connection.set_busy_timeout(10_000)
            if connection.pragma("journal_mode", "wal") != "wal":
                raise StorageError(f"{self.path} can't be used in WAL mode")
            connection.pragma("synchronous", self._synchronous)
            connection.pragma("fullfsync", self._synchronous == "FULL")
            connection.pragma("cache_size", -cache_kib)
            connection.pragma("temp_store", "memory")
            connection.wal_autocheckpoint(0)
            if read_only:
                connection.pragma("query_only", True)
        except apsw.Error as error:
            raise StorageError(f"{self.path} can't be opened: {error}") from error
        return connection

    def release(self) -> None:
        """Let another process open the file; all connections must be closed by then."""
        os.close(self._lock)


def open_file(path: Path, key_file: Path | None, *, existing: bool) -> apsw.Connection:
    """A connection that holds no lock, to a file that must exist if `existing`.

    Raises `StorageError`, also for a key that does not fit.
    """
    if existing and not path.exists():
        raise StorageError(f"{path} does not exist")
    connection = _open(path, None if key_file is None else read_key(key_file), key_file)
    connection.set_busy_timeout(10_000)
    return connection


def rekeyed_path(path: Path) -> Path:
    """Where a copy under another key is made before it takes the place of `path`."""
    return path.with_name(path.name + ".rekey")


def _open(path: Path, key: str | None, key_file: Path | None) -> apsw.Connection:
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
    try:
        connection = apsw.Connection(str(path.absolute()), flags=flags, statementcachesize=500)
        if key is not None:
            connection.pragma("cipher", "aegis")
            connection.pragma("key", f"raw:{key}")
        connection.pragma("schema_version")
    except apsw.NotADBError:
        raise StorageError(_unreadable(path, key_file)) from None
    except apsw.Error as error:
        raise StorageError(f"{path} can't be opened: {error}") from error
    return connection


def _unreadable(path: Path, key_file: Path | None) -> str:
    """Why the file can't be read with this key, or without one."""
    if key_file is None:
        return f"{path} is encrypted or no database: database.key_file must name its key"
    with open(path, "rb") as file:
        plain = file.read(len(_PLAIN_HEADER)) == _PLAIN_HEADER
    if plain:
        return (
            f"{path} is not encrypted, but database.key_file is set: encrypt it with"
            " `homeserver db rekey`, or remove the option"
        )
    return f"{path} can't be read: the key in {key_file} does not fit it"


def read_key(key_file: Path) -> str:
    """The key in a file, 64 hexadecimal digits; raises `StorageError`."""
    try:
        text = key_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"The key of the database can't be read: {error}") from error
    if not _KEY.fullmatch(text):
        raise StorageError(f"{key_file} must hold a key of 32 bytes as 64 hexadecimal digits")
    return text


def _lock(path: Path) -> int:
    beside = path.with_name(path.name + ".lock")
    try:
        handle = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"{beside} can't be made: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(handle, 20, 0).decode(errors="replace").strip()
        os.close(handle)
        raise DatabaseInUse(
            f"{path} is open in another process ({holder or 'number unknown'}); stop it first"
        ) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, str(os.getpid()).encode(), 0)
    return handle
