"""The stored files: each content once, by its hash.

Owns the rows of `blobs` and the files that they promise, in whichever place. Invariants: a row
exists only for a file that is there; a file without a row is known to be in doubt before it exists,
to its place or by a row, so that the next start removes it; what is done to one hash is done one
thing at a time. Who refers to a file stands in the changes that callers add.
docs/decisions/015-files-in-doubt-by-name.md
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from homeserver.errors import MatrixError
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from storage import media as store
from storage.blobs import BlobMissing, Blobs, Disk, Draft, NoSpace, PlaceFailed
from storage.changes import Change, Delete, Insert, Put
from storage.engine import Database
from storage.schema import BlobInDoubtRow, BlobRow, JudgedHashRow, MediaRow, ThumbnailRow

log = logging.getLogger(__name__)

DISK = 0
S3 = 1
PLACES = {"disk": DISK, "s3": S3}
LINK_SECONDS = 300
"""For how long a link to a file's place is good."""


class Spoilt(Exception):
    """A file does not have the content that its hash promises."""


class Files:
    """All stored files; new ones go to the place `keep_in`."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        clock: Clock,
        disk: Disk,
        places: Mapping[int, Blobs],
        keep_in: int,
    ) -> None:
        self._database = database
        self._commits = commits
        self._clock = clock
        self.disk = disk
        self._places = places
        self._keep_in = keep_in
        self._turns: dict[bytes, _Turn] = {}
        self._judged: dict[bytes, JudgedHashRow] = {}
        self.dropped: Callable[[int], None] = lambda _user_nid: None
        """Called after a URI of a local user's was dropped, or may have been."""

    async def open(self) -> None:
        """Make the folders, and finish or undo what an earlier run was at; raises OSError."""
        await self.disk.open()
        for digest, number in await store.in_doubt(self._database):
            await self._decide(digest, number)
        for number, place in self._places.items():
            for digest in await place.unsettled():
                await self._look(digest, number)
        await self.disk.flush()
        self._judged = {row.hash: row for row in await store.judged(self._database)}

    async def close(self) -> None:
        """Let go of the disk and of the network."""
        for place in self._places.values():
            await place.close()

    @asynccontextmanager
    async def draft(self) -> AsyncIterator[Draft]:
        """A new draft; a full disk becomes a refusal that says so."""
        try:
            async with self.disk.draft() as draft:
                yield draft
        except NoSpace as error:
            log.error("a file could not be stored: %s", error)
            raise MatrixError("M_UNKNOWN", "The server has no space for this file", 507) from None
        except PlaceFailed as error:
            raise _unreachable(error) from None

    async def keep(self, draft: Draft, changes: Sequence[Change]) -> None:
        """Store a finished draft together with the rows that refer to it.

        Raises MatrixError M_FORBIDDEN for a content that is blocked, and what `commit` raises.
        """
        digest = draft.digest
        judgement = self._judged.get(digest)
        if judgement is not None and judgement.blocked:
            raise MatrixError.forbidden("This content is not allowed here")
        # What was begun must reach its end: a caller that goes away would leave a doubt behind.
        storing = asyncio.ensure_future(self._keep(draft, digest, changes))
        try:
            await asyncio.shield(storing)
        except asyncio.CancelledError:
            await asyncio.wait([storing])
            raise

    async def _keep(self, draft: Draft, digest: bytes, changes: Sequence[Change]) -> None:
        async with self._turn(digest):
            if await store.blob(self._database, digest) is not None:
                await self._commits.submit(changes)
            else:
                await self._store(draft, digest, changes)

    async def _store(self, draft: Draft, digest: bytes, changes: Sequence[Change]) -> None:
        number = self._keep_in
        place = self._at(number)
        row = Insert(BlobRow(digest, draft.size, number, self._clock.now_ms()))
        if not place.remembers:
            await self._commits.commit([Put(BlobInDoubtRow(digest, number))])
            changes = [store.decided(digest, number), *changes]
        try:
            await place.put(draft)
            await self._commits.submit([row, *changes])
        except BaseException:
            await self._undo(digest, number)
            raise
        place.settle(digest)

    async def _decide(self, digest: bytes, number: int) -> None:
        """Remove a file from a place if its row does not say that it is there.

        When the place fails that is left to the next start.
        """
        if await self._look(digest, number):
            await self._commits.commit([store.decided(digest, number)])

    async def _look(self, digest: bytes, number: int) -> bool:
        """As `_decide`, when no row says that it is in doubt; whether the place did not fail."""
        blob = await store.blob(self._database, digest)
        try:
            place = self._at(number)
            if blob is None or blob.place != number:
                await place.delete(digest)
            else:
                place.settle(digest)
        except PlaceFailed as error:
            log.error("a file may be left over until the next start: %s", error)
            return False
        return True

    async def _undo(self, digest: bytes, place: int) -> None:
        try:
            await self._decide(digest, place)
        except Exception:
            log.exception("a file that was not stored is looked at again at the next start")

    async def drop(self, row: MediaRow, first: Sequence[Change] = ()) -> None:
        """Forget a URI; its content goes with the last URI, and its smaller forms before it.

        `first` are changes of the same transaction; raises what makes them fail.
        """
        digest = row.hash
        gone: list[Change] = [*first, Delete(MediaRow, (row.server, row.media_id))]
        if digest is None:
            await self._commits.commit(gone)
            return
        if row.uploader_nid is not None:
            gone.append(store.used(row.uploader_nid, -row.size, -1))
        try:
            await self._drop(digest, (row.server, row.media_id), gone)
        finally:
            if row.uploader_nid is not None:
                self.dropped(row.uploader_nid)

    async def _drop(self, digest: bytes, mine: tuple[str, str], gone: Sequence[Change]) -> None:
        if all(name == mine for name in await store.names_of(self._database, digest, 2)):
            for spec, small in (await store.thumbnails(self._database, digest)).items():
                if small.thumb_hash != digest:
                    key = (digest, spec)
                    await self._release(small.thumb_hash, [Delete(ThumbnailRow, key)], key)
        await self._release(digest, gone, mine)

    async def _release(self, digest: bytes, gone: Sequence[Change], key: tuple[Any, Any]) -> None:
        """Remove a row that names a content, and the content if no other does."""
        async with self._turn(digest):
            others = [
                *await store.names_of(self._database, digest, 2),
                *await store.larger_forms(self._database, digest, 64),
            ]
            itself = [name for name in others if name[0] == digest]
            blob = await store.blob(self._database, digest)
            if blob is None or any(name != key and name not in itself for name in others):
                await self._commits.commit(gone)
                return
            doubt = Put(BlobInDoubtRow(digest, blob.place))
            forms = [Delete(ThumbnailRow, name) for name in itself]
            await self._commits.commit([*gone, *forms, doubt, Delete(BlobRow, (digest,))])
            await self._decide(digest, blob.place)

    async def is_there(self, digest: bytes) -> bool:
        """Whether the file of a content can be read, whatever its row says."""
        blob = await store.blob(self._database, digest)
        try:
            return blob is not None and await self._at(blob.place).has(digest)
        except PlaceFailed as error:
            raise _unreachable(error) from None

    @asynccontextmanager
    async def on_disk(self, digest: bytes) -> AsyncIterator[Path]:
        """A content as a file of this machine's disk, for a while; raises BlobMissing."""
        if await self.disk.has(digest):
            yield self.disk.path(digest)
            return
        async with self.draft() as draft:
            await self._copy(digest, draft)
            yield await draft.file()

    async def _copy(self, digest: bytes, draft: Draft) -> None:
        blob = await store.blob(self._database, digest)
        if blob is None:
            raise BlobMissing(digest.hex())
        async with aclosing(self._at(blob.place).read(digest, 0, blob.size)) as pieces:
            async for piece in pieces:
                await draft.write(piece)
        await draft.finish()

    async def link(self, digest: bytes, headers: dict[str, str]) -> str | None:
        """Where a client can get a file by itself, with these headers; None if it can't."""
        blob = await store.blob(self._database, digest)
        if blob is None:
            return None
        return await self._at(blob.place).url(digest, headers, LINK_SECONDS)

    def has_place(self, place: int) -> bool:
        """Whether files can be kept there."""
        return place in self._places

    async def move(self, digest: bytes, to: int) -> bool:
        """Move a file to a place; whether it was not there yet.

        Raises BlobMissing, Spoilt, MatrixError M_UNKNOWN (503, 507).
        """
        async with self._turn(digest), self.draft() as draft:
            blob = await store.blob(self._database, digest)
            if blob is None or blob.place == to:
                return False
            await self._copy(digest, draft)
            if draft.digest != digest:
                raise Spoilt(digest.hex())
            await self._commits.commit([Put(BlobInDoubtRow(digest, to))])
            try:
                await self._at(to).put(draft)
                await self._check(digest, blob.size, to)
                moved = Put(blob._replace(place=to))
                left = Put(BlobInDoubtRow(digest, blob.place))
                await self._commits.commit([moved, store.decided(digest, to), left])
            except BaseException:
                await self._undo(digest, to)
                raise
            self._at(to).settle(digest)
            await self._decide(digest, blob.place)
            return True

    async def _check(self, digest: bytes, size: int, place: int) -> None:
        """Read a file back from a place; raises Spoilt when it is another."""
        hashed = hashlib.sha256()
        async with aclosing(self._at(place).read(digest, 0, size)) as pieces:
            async for piece in pieces:
                hashed.update(piece)
        if hashed.digest() != digest:
            raise Spoilt(digest.hex())

    async def blob(self, digest: bytes) -> BlobRow | None:
        """The row of a file."""
        return await store.blob(self._database, digest)

    async def read(self, digest: bytes, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Bytes of a file from `start` up to `stop`.

        Raises BlobMissing, and MatrixError M_UNKNOWN (503) when its place can't be reached.
        """
        missing_at = None
        while True:
            blob = await store.blob(self._database, digest)
            if blob is None or blob.place == missing_at:
                raise BlobMissing(digest.hex())
            try:
                async with aclosing(self._at(blob.place).read(digest, start, stop)) as pieces:
                    async for piece in pieces:
                        yield piece
                return
            except BlobMissing:
                # It may just have moved.
                missing_at = blob.place
            except PlaceFailed as error:
                raise _unreachable(error) from None

    async def judge(self, row: JudgedHashRow) -> None:
        """Show a content no more; what is blocked is not taken again either."""
        await self._commits.commit([Put(row)])
        self._judged[row.hash] = row

    async def absolve(self, digest: bytes) -> bool:
        """Take a judgement back; whether there was one."""
        await self._commits.commit([Delete(JudgedHashRow, (digest,))])
        return self._judged.pop(digest, None) is not None

    def judgements(self) -> list[JudgedHashRow]:
        """All contents that are not shown, the last judged first."""
        return sorted(self._judged.values(), key=lambda row: row.ts, reverse=True)

    async def sizes(self) -> dict[int, dict[bytes, int]]:
        """By place every file that is there, with its size; raises MatrixError M_UNKNOWN (503)."""
        try:
            return {number: await place.sizes() for number, place in self._places.items()}
        except PlaceFailed as error:
            raise _unreachable(error) from None

    def judgement(self, digest: bytes) -> JudgedHashRow | None:
        """Why a content is not shown, if it isn't."""
        return self._judged.get(digest)

    def _at(self, place: int) -> Blobs:
        found = self._places.get(place)
        if found is None:
            raise PlaceFailed("a file lies in S3, which is not configured (any more)")
        return found

    @asynccontextmanager
    async def _turn(self, digest: bytes) -> AsyncIterator[None]:
        turn = self._turns.setdefault(digest, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[digest]


def _unreachable(error: PlaceFailed) -> MatrixError:
    log.error("a place of files fails: %s", error)
    return MatrixError("M_UNKNOWN", "The store of files can't be reached", 503)


class _Turn:
    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0
