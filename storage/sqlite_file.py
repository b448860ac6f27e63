"""The database file of SQLite: who may open it, with which key, and with which settings.

One process at a time holds the file, by a lock on `<file>.lock` beside it that the system lets go
of when the process ends, however it ends. Connections differ by purpose in their cache only.
Nothing here knows of tables.
"""

import fcntl
import os
import re
from pathlib import Path

import apsw

from storage.engine import DatabaseInUse, StorageError

_KEY = re.compile(r"[0-9a-fA-F]{64}")


class DatabaseFile:
    """The locked file; `connect` opens one more connection to it."""

    def __init__(self, path: Path, *, key_file: Path | None, durable: bool) -> None:
        self.path = path
        self._key = None if key_file is None else _read_key(key_file)
        self._synchronous = "FULL" if durable else "OFF"
        self._lock = _lock(path)

    def connect(self, *, cache_kib: int, read_only: bool = True) -> apsw.Connection:
        """A connection with a page cache of at most `cache_kib`; raises `StorageError`."""
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        try:
            connection = apsw.Connection(str(self.path), flags=flags, statementcachesize=500)
            if self._key is not None:
                connection.pragma("cipher", "aegis")
                connection.pragma("key", f"raw:{self._key}")
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
        except apsw.NotADBError:
            reason = "it is not a database" if self._key is None else "the key does not fit"
            raise StorageError(
                f"{self.path} can't be read: {reason} (an encrypted one needs database.key_file)"
            ) from None
        except apsw.Error as error:
            raise StorageError(f"{self.path} can't be opened: {error}") from error
        return connection

    def release(self) -> None:
        """Let another process open the file; all connections must be closed by then."""
        os.close(self._lock)


def _read_key(key_file: Path) -> str:
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
