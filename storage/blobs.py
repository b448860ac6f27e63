"""Files by the hash of their content, on the local disk.

Owns the drafts that become files, the reading, and the threads for both; how a file gets its name
and loses it is in `keeping.py`. Invariants: a file with a hash's name is whole and has that hash,
for it gets it only then; no call holds the event loop; no more than `PIECE` bytes of a file are in
memory. Which files there should be is not known here.
"""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Protocol, Self, TypeVar

from storage.keeping import Keeper, New, written
from storage.threads import Threads

T = TypeVar("T")

PIECE = 131_072
THREADS = 8
"""Calls to the disk at one time."""


class NoSpace(Exception):
    """The disk, or the place that files are kept in, is full."""


class BlobMissing(Exception):
    """There is no file of this hash."""


class PlaceFailed(Exception):
    """The place where files are kept can't be reached, or refuses."""


class Draft:
    """Content that is being written: in memory up to one piece, then in a file of `folder`.

    Use it as an asynchronous context: what was not kept at its end is removed. `digest` and `size`
    say what was written so far; `pieces` is what is in no file yet.
    """

    def __init__(self, disk: "Disk") -> None:
        self._disk = disk
        self.pieces: list[bytes] = []
        self._waiting = 0
        self._hash = hashlib.sha256()
        self.path: Path | None = None
        self.size = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.path is not None:
            await self._disk.run(_removed, self.path)

    @property
    def digest(self) -> bytes:
        return self._hash.digest()

    async def write(self, piece: bytes) -> None:
        """Add to the content; raises NoSpace."""
        self.pieces.append(piece)
        self._waiting += len(piece)
        self.size += len(piece)
        if self.path is not None or self._waiting > PIECE:
            await self._flush()

    async def finish(self) -> None:
        """All was written; from now on `digest` is that of the content."""
        if self.path is None:
            for piece in self.pieces:
                self._hash.update(piece)
        else:
            await self._flush()

    async def file(self) -> Path:
        """The finished content as a file, which lives as long as the draft."""
        if self.path is None:
            self.path = self._disk.new_draft()
            await self._disk.run(self._disk.write, self.path, self.pieces)
            self.pieces, self._waiting = [], 0
        return self.path

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The finished content."""
        if self.path is None:
            for piece in self.pieces:
                yield piece
            return
        async for piece in self._disk.pieces(self.path, 0, self.size):
            yield piece

    async def _flush(self) -> None:
        pieces, self.pieces, self._waiting = self.pieces, [], 0
        if self.path is None:
            self.path = self._disk.new_draft()
        await self._disk.run(self._written, self.path, pieces)

    def _written(self, path: Path, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._hash.update(piece)
        self._disk.write(path, pieces)


class Blobs(Protocol):
    """A place where files are kept by their hash.

    `remembers`: what was put and not settled is known to `unsettled` of the next run.
    """

    remembers: bool

    async def put(self, draft: Draft) -> None:
        """Keep a finished draft; its file may be taken over. `settle` or `delete` follows.

        Raises NoSpace, OSError or PlaceFailed, as the others do that are not said to do else.
        """

    def settle(self, digest: bytes) -> None:
        """What was put is to stay."""

    async def unsettled(self) -> list[bytes]:
        """What an earlier run has put and not settled, when the place remembers that."""

    def read(self, digest: bytes, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes of a file from `start` up to `stop`; raises BlobMissing too."""

    async def delete(self, digest: bytes) -> None:
        """Remove a file, if it is there."""

    async def has(self, digest: bytes) -> bool:
        """Whether the file of a hash is there."""

    async def sizes(self) -> dict[bytes, int]:
        """Every file that is there, with its size."""

    async def url(self, digest: bytes, headers: dict[str, str], seconds: int) -> str | None:
        """Where a client can get the file by itself for some time, None when it can't.

        `headers` are those that the answer there is to have: Content-Type, Content-Disposition.
        """

    async def close(self) -> None:
        """Let go of everything."""


class Disk:
    """The local folder: drafts of every store, and the files of this one."""

    remembers = True

    def __init__(self, folder: Path, *, durable: bool, keep_free: int = 0) -> None:
        """`durable`: files survive a power cut. `keep_free`: bytes of the disk that stay free."""
        self._folder = folder
        self._drafts = folder / "drafts"
        self._durable = durable
        self._keep_free = keep_free
        self._keeper = Keeper(folder, durable=durable, keep_free=keep_free)
        self._threads = Threads(THREADS, "media")

    async def open(self) -> None:
        """Make the folders, and remove what an earlier run has left half-written."""
        await self._keeper.open()

    def draft(self) -> Draft:
        """A new draft."""
        return Draft(self)

    def new_draft(self) -> Path:
        """A path for a file that exists until it is kept or removed, at most until the next run."""
        return self._drafts / secrets.token_hex(12)

    def path(self, digest: bytes) -> Path:
        """Where the file of a hash lies."""
        return Path(self._keeper.path(digest.hex()))

    async def put(self, draft: Draft) -> None:
        if draft.path is not None and self._durable:
            # Large ones hold nobody up that waits for a name.
            await self.run(_synced, draft.path)
        with _space():
            await self._keeper.put(New(draft.digest.hex(), draft.path, draft.pieces))
        draft.path = None

    def settle(self, digest: bytes) -> None:
        self._keeper.settle(digest.hex())

    async def unsettled(self) -> list[bytes]:
        return [bytes.fromhex(name) for name in await self._keeper.unsettled()]

    async def flush(self) -> None:
        """Finish what was settled now, not within some seconds."""
        await self._keeper.flush()

    async def read(self, digest: bytes, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        async for piece in self.pieces(self.path(digest), start, stop):
            yield piece

    async def pieces(self, path: Path, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes of any file from `start` up to `stop`; raises BlobMissing or OSError."""
        if stop - start <= PIECE:
            yield await self.run(_read_once, path, start, stop)
            return
        handle = await self.run(_opened, path)
        try:
            while start < stop:
                piece = await self.run(os.pread, handle, min(PIECE, stop - start), start)
                if not piece:
                    return
                start += len(piece)
                yield piece
        finally:
            os.close(handle)

    async def delete(self, digest: bytes) -> None:
        await self._keeper.delete(digest.hex())

    async def has(self, digest: bytes) -> bool:
        return await self.run(self.path(digest).is_file)

    async def sizes(self) -> dict[bytes, int]:
        return await self.run(lambda: dict(self._found()))

    async def url(self, digest: bytes, headers: dict[str, str], seconds: int) -> str | None:
        return None

    async def close(self) -> None:
        await self._threads.close()
        await self._keeper.close()

    async def run(self, call: Callable[..., T], *args: object) -> T:
        """Call something that touches the disk, off the loop; raises NoSpace when it is full."""
        with _space():
            return await self._threads.run(partial(call, *args))

    def write(self, path: Path, pieces: list[bytes]) -> None:
        """Append to a draft; blocks."""
        if self._keep_free and shutil.disk_usage(self._drafts).free < self._keep_free:
            raise OSError(errno.ENOSPC, "no more space is to be used", str(path))
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            written(handle, pieces)
        finally:
            os.close(handle)

    def _found(self) -> Iterator[tuple[bytes, int]]:
        for folder, _, names in os.walk(self._folder / "blobs"):
            for name in names:
                with suppress(ValueError, FileNotFoundError):
                    yield bytes.fromhex(name), (Path(folder) / name).stat().st_size


@contextmanager
def _space() -> Iterator[None]:
    """A full disk becomes `NoSpace`."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise NoSpace("the disk is full") from error
        raise


def _read_once(path: Path, start: int, stop: int) -> bytes:
    handle = _opened(path)
    try:
        return os.pread(handle, stop - start, start)
    finally:
        os.close(handle)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise BlobMissing(path.name) from None


def _removed(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()


def _synced(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
