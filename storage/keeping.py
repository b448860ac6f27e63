"""Files get the names of their hashes, durably and many in one go.

Owns the one thread that names files of the local disk, and removes them; where many wait, others
help to sync them, so that a slow disk is not waited for once for each. A new file is first
`drafts/HASH`, then `blobs/HA/HASH` as well (a hard link); the first name goes when it is settled,
that is when its row was committed. Invariants: a file with a hash's name under `blobs` is whole and
on the disk; what is there without a row has a name under `drafts` too, so that the next start finds
it. Which files there should be is not known here.
docs/decisions/015-files-in-doubt-by-name.md
"""

import asyncio
import errno
import logging
import os
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from storage.threads import Threads

log = logging.getLogger(__name__)

SETTLE_SECONDS = 5.0
"""How long first names may be left over."""
AT_ONCE = 64
"""So many files are written before they are synced."""
ALONE = 4
"""Of more, several are synced at once."""
SYNCERS = 8

_MOST_VIEWS = 512
_NAME = re.compile(r"[0-9a-f]{64}")
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""What file systems say that give a file one name only; there the second name is a copy."""


class New(NamedTuple):
    """A content to be named: already a file that is on the disk, or its pieces."""

    name: str
    path: Path | None
    pieces: Sequence[bytes]


class Keeper:
    """See the module. Use it on one loop; `open` comes first."""

    def __init__(self, folder: Path, *, durable: bool, keep_free: int) -> None:
        self._blobs = str(folder / "blobs")
        self._drafts = str(folder / "drafts")
        self._earlier = folder / "files"
        self._durable = durable
        self._keep_free = keep_free
        self._waiting: list[tuple[New, asyncio.Future[None]]] = []
        self._is_naming = False
        self._settled: set[str] = set()
        self._settling: asyncio.TimerHandle | None = None
        self._thread = Threads(1, "media-keeper")
        self._syncers = ThreadPoolExecutor(SYNCERS, "media-sync")

    async def open(self) -> None:
        """Make the folders, and remove what an earlier run has left half-written."""
        await self._thread.run(self._prepare)

    def path(self, name: str) -> str:
        """Where the file of a hash (in hexadecimal) lies."""
        return f"{self._blobs}/{name[:2]}/{name}"

    async def put(self, new: New) -> None:
        """Name a file; afterwards it survives a power cut. Raises OSError."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((new, done))
        if not self._is_naming:
            self._name_waiting()
        await done

    def settle(self, name: str) -> None:
        """The row of a file that was put is there."""
        self._settled.add(name)
        if self._settling is None:
            loop = asyncio.get_running_loop()
            self._settling = loop.call_later(SETTLE_SECONDS, self._settle_soon)

    async def delete(self, name: str) -> None:
        """Remove a file, if it is there."""
        self._settled.discard(name)
        await self._thread.run(lambda: self._delete(name))

    async def unsettled(self) -> list[str]:
        """What an earlier run did not settle."""
        return await self._thread.run(
            lambda: [name for name in os.listdir(self._drafts) if _NAME.fullmatch(name)]
        )

    async def flush(self) -> None:
        """Remove the first names of all that is settled."""
        await self._settle_soon()

    async def close(self) -> None:
        """Do what was begun, and end the thread."""
        await self.flush()
        await self._thread.close()
        self._syncers.shutdown()

    def _name_waiting(self) -> None:
        waiting, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
        self._is_naming = True
        news = [new for new, _ in waiting]
        named = self._thread.run(lambda: self._name(news))

        def tell(_: object) -> None:
            self._is_naming = False
            failed = named.exception()
            errors = [failed] * len(waiting) if failed is not None else named.result()
            for (_new, done), error in zip(waiting, errors, strict=True):
                if done.done():
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)
            if self._waiting:
                self._name_waiting()

        named.add_done_callback(tell)

    def _settle_soon(self) -> "asyncio.Future[None]":
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        names, self._settled = self._settled, set()
        return self._thread.run(lambda: self._settle(names))

    # In the thread.

    def _prepare(self) -> None:
        os.makedirs(self._drafts, mode=0o700, exist_ok=True)
        for number in range(256):
            os.makedirs(f"{self._blobs}/{number:02x}", mode=0o700, exist_ok=True)
        for left in os.scandir(self._drafts):
            if _NAME.fullmatch(left.name) is None:
                os.unlink(left)
        if self._earlier.exists():
            self._take_over()
        if self._durable:
            _synced(self._blobs)

    def _take_over(self) -> None:
        """Files used to lie in folders of folders."""
        for path in list(self._earlier.rglob("*")):
            if _NAME.fullmatch(path.name) is not None:
                path.rename(self.path(path.name))
        if self._durable:
            for number in range(256):
                _synced(f"{self._blobs}/{number:02x}")
        shutil.rmtree(self._earlier)

    def _name(self, news: Sequence[New]) -> list[Exception | None]:
        """Name files; what went wrong with each."""
        if self._keep_free and shutil.disk_usage(self._drafts).free < self._keep_free:
            raise OSError(errno.ENOSPC, "no more space is to be used", self._drafts)
        handles: list[int | OSError | None] = [self._written(new) for new in news]
        try:
            failed = self._sync([one for one in handles if isinstance(one, int)])
        finally:
            for handle in handles:
                if isinstance(handle, int):
                    os.close(handle)
        errors: list[Exception | None] = []
        for new, handle in zip(news, handles, strict=True):
            error = handle if isinstance(handle, OSError) else failed.get(handle)
            try:
                if error is None:
                    self._link(new.name)
            except OSError as refused:
                error = refused
            errors.append(error)
        if self._durable:
            _synced(self._drafts)
        return errors

    def _written(self, new: New) -> int | OSError | None:
        """Write a new file, which is to be synced by this handle, if it is; or why it can't be."""
        path = f"{self._drafts}/{new.name}"
        handle = None
        try:
            if new.path is not None:
                os.rename(new.path, path)
                return None
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            written(handle, new.pieces)
        except OSError as error:
            if handle is not None:
                os.close(handle)
            return error
        return handle

    def _sync(self, handles: Sequence[int]) -> dict[int | None, OSError]:
        """Bring what was written to the disk; by handle why that failed."""
        if not self._durable:
            return {}
        helped = len(handles) > ALONE
        results = (self._syncers.map if helped else map)(_sync_failed, handles)
        found = zip(handles, results, strict=True)
        return {handle: error for handle, error in found if error is not None}

    def _link(self, name: str) -> None:
        first, path = f"{self._drafts}/{name}", self.path(name)
        try:
            self._named_also(first, path)
        except FileExistsError:
            # Nothing promises what lies there: it is of an earlier run, or of somebody else.
            os.unlink(path)
            self._named_also(first, path)

    def _named_also(self, first: str, path: str) -> None:
        """Give a file a second name; may raise FileExistsError when that is taken."""
        try:
            os.link(first, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with open(first, "rb") as source, open(f"{first}.copy", "wb") as copy:
                shutil.copyfileobj(source, copy)
                copy.flush()
                if self._durable:
                    os.fsync(copy.fileno())
            os.replace(copy.name, path)

    def _settle(self, names: set[str]) -> None:
        try:
            for name in names:
                # After a power cut the second name may be lacking.
                with suppress(FileExistsError, FileNotFoundError):
                    self._named_also(f"{self._drafts}/{name}", self.path(name))
            if self._durable:
                for folder in {name[:2] for name in names}:
                    _synced(f"{self._blobs}/{folder}")
            for name in names:
                with suppress(FileNotFoundError):
                    os.unlink(f"{self._drafts}/{name}")
        except OSError as error:
            log.warning("names of files are left over until the next start: %s", error)

    def _delete(self, name: str) -> None:
        path = self.path(name)
        for one in (path, f"{self._drafts}/{name}"):
            with suppress(FileNotFoundError):
                os.unlink(one)
        if self._durable:
            _synced(os.path.dirname(path))
            _synced(self._drafts)


def written(handle: int, pieces: Sequence[bytes]) -> None:
    """Write all of the pieces."""
    views = [memoryview(piece) for piece in pieces]
    while views:
        done = os.writev(handle, views[:_MOST_VIEWS])
        while views and done >= len(views[0]):
            done -= len(views.pop(0))
        if done:
            views[0] = views[0][done:]


def _sync_failed(handle: int) -> OSError | None:
    try:
        os.fsync(handle)
    except OSError as error:
        return error
    return None


def _synced(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
