"""Files by the hash of their content, on the local disk.

Owns the folder of a media store: where a file of a SHA-256 lies, the drafts that become files, and
the threads that touch the disk. Invariants: a file with a hash's name is whole and has that hash,
for it is renamed to it only then; no call holds the event loop; no more than `PIECE` bytes of a
file are in memory. Which files there should be is not known here.
"""

import asyncio
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self, TypeVar

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
    say what was written so far.
    """

    def __init__(self, disk: "Disk") -> None:
        self._disk = disk
        self._pieces: list[bytes] = []
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
        self._pieces.append(piece)
        self._waiting += len(piece)
        self.size += len(piece)
        if self.path is not None or self._waiting > PIECE:
            await self._flush()

    async def finish(self) -> None:
        """All was written; from now on `digest` is that of the content."""
        if self.path is None:
            for piece in self._pieces:
                self._hash.update(piece)
        else:
            await self._flush()

    async def file(self) -> Path:
        """The finished content as a file, which lives as long as the draft."""
        if self.path is None:
            self.path = self._disk.new_draft()
            await self._disk.run(self._disk.write, self.path, self._pieces)
            self._pieces, self._waiting = [], 0
        return self.path

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The finished content."""
        if self.path is None:
            for piece in self._pieces:
                yield piece
            return
        async for piece in self._disk.pieces(self.path, 0, self.size):
            yield piece

    async def _flush(self) -> None:
        pieces, self._pieces, self._waiting = self._pieces, [], 0
        if self.path is None:
            self.path = self._disk.new_draft()
        await self._disk.run(self._written, self.path, pieces)

    def _written(self, path: Path, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._hash.update(piece)
        self._disk.write(path, pieces)


class Blobs(Protocol):
    """A place where files are kept by their hash."""

    async def put(self, draft: Draft) -> None:
        """Keep a finished draft; its file may be taken over.

        Raises NoSpace, OSError or PlaceFailed, as the others do that are not said to do else.
        """

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

    def __init__(self, folder: Path, *, durable: bool, keep_free: int = 0) -> None:
        """`durable`: files survive a power cut. `keep_free`: bytes of the disk that stay free."""
        self._files = folder / "files"
        self._drafts = folder / "drafts"
        self._durable = durable
        self._keep_free = keep_free
        self._threads = ThreadPoolExecutor(THREADS, "media")

    async def open(self) -> None:
        """Make the folders, and remove what an earlier run has left half-written."""

        def prepare() -> None:
            self._files.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._drafts.mkdir(parents=True, exist_ok=True, mode=0o700)
            for left in self._drafts.iterdir():
                left.unlink()

        await self.run(prepare)

    def draft(self) -> Draft:
        """A new draft."""
        return Draft(self)

    def new_draft(self) -> Path:
        """A path for a file that exists until it is kept or removed, at most until the next run."""
        return self._drafts / secrets.token_hex(12)

    def path(self, digest: bytes) -> Path:
        """Where the file of a hash lies."""
        name = digest.hex()
        return self._files / name[:2] / name[2:4] / name

    async def put(self, draft: Draft) -> None:
        path = await draft.file()
        await self.run(self._keep, path, self.path(draft.digest))
        draft.path = None

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
        await self.run(self._delete, self.path(digest))

    async def has(self, digest: bytes) -> bool:
        return await self.run(self.path(digest).is_file)

    async def sizes(self) -> dict[bytes, int]:
        return await self.run(lambda: dict(self._found()))

    async def url(self, digest: bytes, headers: dict[str, str], seconds: int) -> str | None:
        return None

    async def close(self) -> None:
        self._threads.shutdown()

    async def run(self, call: Callable[..., T], *args: object) -> T:
        """Call something that touches the disk, off the loop; raises NoSpace when it is full."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, call, *args)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise NoSpace("the disk is full") from error
            raise

    def write(self, path: Path, pieces: list[bytes]) -> None:
        """Append to a draft; blocks."""
        if self._keep_free and shutil.disk_usage(self._drafts).free < self._keep_free:
            raise OSError(errno.ENOSPC, "no more space is to be used", str(path))
        with open(path, "ab", buffering=0) as file:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[file.write(view) :]

    def _keep(self, draft: Path, path: Path) -> None:
        if self._durable:
            _synced(draft)
        new = [folder for folder in (path.parent.parent, path.parent) if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft.replace(path)
        if self._durable:
            for folder in {path.parent, *(one.parent for one in new)}:
                _synced(folder)

    def _delete(self, path: Path) -> None:
        _removed(path)
        if self._durable and path.parent.exists():
            _synced(path.parent)

    def _found(self) -> Iterator[tuple[bytes, int]]:
        for folder, _, names in os.walk(self._files):
            for name in names:
                with suppress(ValueError, FileNotFoundError):
                    yield bytes.fromhex(name), (Path(folder) / name).stat().st_size


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
