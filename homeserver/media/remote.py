"""Files of other servers, fetched once and kept while they are used.

Owns the fetching (one at a time for each name, few in all, failures remembered for a while) and the
room that these files may take, with their smaller forms: whoever was not asked for longest goes
first, and what nobody asks for goes in the end. Invariant: the files that are kept never take more
than the budget (by a smaller form more for the moment in which it comes). Whether a file may be
shown is decided in `downloads.py`; how another server is spoken to, in `federation.media`.
spec: client-server-api#content-repository
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakValueDictionary

from homeserver import config
from homeserver.errors import MatrixError, RemoteError, Unreachable
from homeserver.http.outbound import OutboundFailed, TooLong
from homeserver.matrix.mxc import Mxc
from homeserver.media.files import Files
from homeserver.media.uploads import file_name, media_type
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from storage import media as store
from storage.blobs import Draft
from storage.changes import Delete, Put
from storage.engine import Database
from storage.schema import MEDIA_QUARANTINED, MediaRow

log = logging.getLogger(__name__)

AT_ONCE = 64
OF_A_SERVER = 4
"""Fetched from one server at a time: it holds up neither others nor what else is asked of it."""
REMEMBERED_SECONDS = 60.0
MOST_REMEMBERED = 10_000
DAY_MS = 86_400_000
TOUCHED_MS = 3_600_000
"""Of a file's use the hour is kept."""
_STEP = 50


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of another server as it comes; what it says of itself is not to be trusted."""

    content_type: str | None
    filename: str | None
    chunks: AsyncIterator[bytes]


class Elsewhere(Protocol):
    """Opens files of other servers."""

    def open(
        self, name: Mxc, wait_ms: int, max_bytes: int
    ) -> AbstractAsyncContextManager[RemoteFile]:
        """Raises RemoteError and Unreachable; reading raises these and OutboundFailed."""


class Remote:
    """See the module."""

    def __init__(
        self,
        options: config.Media,
        files: Files,
        elsewhere: Elsewhere,
        database: Database,
        commits: CommitQueue,
        clock: Clock,
    ) -> None:
        self._options = options
        self._files = files
        self._elsewhere = elsewhere
        self._database = database
        self._commits = commits
        self._clock = clock
        self._places = asyncio.Semaphore(AT_ONCE)
        self._of_server: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._room = asyncio.Lock()
        self._kept = 0
        self._fetching: dict[Mxc, asyncio.Task[MediaRow]] = {}
        self._failed: OrderedDict[Mxc, tuple[MatrixError, float]] = OrderedDict()

    async def open(self) -> None:
        """See how much is kept."""
        self._kept = await store.cached_bytes(self._database)

    async def find(self, name: Mxc, wait_ms: int, *, fetch: bool) -> MediaRow | None:
        """What is known of a file of another server, fetched if need be (and `fetch`).

        Raises MatrixError: M_NOT_FOUND, M_TOO_LARGE (502), M_NOT_YET_UPLOADED (504), or M_UNKNOWN
        (502) when the server could not be asked.
        """
        row = (await store.media(self._database, name.server, [name.media_id])).get(name.media_id)
        if row is not None and row.hash is None:
            # What is hidden is not fetched.
            return None
        if row is not None and row.hash is not None:
            if not fetch or await self._files.is_there(row.hash):
                await self.touch(row)
                return row
            await self.forget(row)
        if not fetch:
            return None
        failed = self._failed.get(name)
        if failed is not None and self._clock.monotonic() < failed[1]:
            raise failed[0]
        fetching = self._fetching.get(name)
        if fetching is None:
            fetching = asyncio.get_running_loop().create_task(self._fetch(name, wait_ms))
            self._fetching[name] = fetching
            fetching.add_done_callback(lambda _: self._fetching.pop(name, None))
        return await asyncio.shield(fetching)

    async def close(self) -> None:
        """Give up what is under way."""
        fetching = list(self._fetching.values())
        for task in fetching:
            task.cancel()
        if fetching:
            await asyncio.wait(fetching)

    async def _fetch(self, name: Mxc, wait_ms: int) -> MediaRow:
        most = self._options.max_remote_bytes
        own = self._of_server.setdefault(name.server, asyncio.Semaphore(OF_A_SERVER))
        try:
            async with (
                own,
                self._places,
                self._files.draft() as draft,
                self._elsewhere.open(name, wait_ms, most) as file,
            ):
                async for piece in file.chunks:
                    await draft.write(piece)
                    if draft.size > most:
                        raise TooLong("it is longer than it may be")
                await draft.finish()
                now = self._clock.now_ms()
                row = MediaRow(
                    server=name.server,
                    media_id=name.media_id,
                    hash=draft.digest,
                    size=draft.size,
                    content_type=media_type(file.content_type),
                    filename=file_name(file.filename),
                    uploader_nid=None,
                    created_ts=now,
                    used_ts=now,
                    expires_ts=None,
                    flags=0,
                )
                await self.keep(draft, row)
                return row
        except (RemoteError, Unreachable, OutboundFailed, MatrixError) as error:
            log.info("a file could not be fetched: %s", error)
            refusal = _refusal(error)
            self._failed[name] = refusal, self._clock.monotonic() + REMEMBERED_SECONDS
            if len(self._failed) > MOST_REMEMBERED:
                self._failed.popitem(last=False)
            raise refusal from None

    async def keep(self, draft: Draft, row: MediaRow) -> None:
        """Store what is only cached, within the budget.

        Raises what `Files.keep` raises, and MatrixError M_NOT_FOUND for what was hidden meanwhile.
        """
        async with self._room:
            known = await store.media(self._database, row.server, [row.media_id])
            if any(one.flags & MEDIA_QUARANTINED for one in known.values()):
                raise MatrixError.not_found("There is no such file")
            await self._make_room(row.size)
            await self._files.keep(draft, [Put(row)])
            self._kept += row.size + await self._forms(draft.digest)

    async def shun(self, name: Mxc) -> None:
        """Never fetch a file."""
        row = MediaRow(
            server=name.server,
            media_id=name.media_id,
            hash=None,
            size=0,
            content_type="",
            filename=None,
            uploader_nid=None,
            created_ts=self._clock.now_ms(),
            used_ts=None,
            expires_ts=None,
            flags=MEDIA_QUARANTINED,
        )
        async with self._room:
            await self._commits.commit([Put(row)])

    async def unshun(self, name: Mxc) -> bool:
        """Take that back; whether it was so."""
        async with self._room:
            known = await store.media(self._database, name.server, [name.media_id])
            if all(row.hash is not None for row in known.values()):
                return False
            await self._commits.commit([Delete(MediaRow, (name.server, name.media_id))])
        self._failed.pop(name, None)
        return True

    @property
    def kept(self) -> int:
        """The bytes of what is only cached."""
        return self._kept

    async def tidy(self) -> None:
        """Drop what was not used for as long as it is to be kept."""
        days = self._options.remote_cache_days
        if days:
            await self.purge(self._clock.now_ms() - days * DAY_MS)

    async def purge(self, before: int) -> int:
        """Drop what is only cached and was not used since `before` (ms); how many they were."""
        gone = 0
        async with self._room:
            while rows := [
                row
                for row in await store.least_used(self._database, _STEP)
                if row.used_ts is not None and row.used_ts < before
            ]:
                for row in rows:
                    await self.forget(row)
                gone += len(rows)
        return gone

    async def _make_room(self, size: int) -> None:
        """Drop what was not used for longest until there is room for so many bytes."""
        budget = self._options.remote_cache_bytes
        if size > budget:
            raise MatrixError("M_TOO_LARGE", "The file is larger than all that is kept", 502)
        while self._kept + size > budget:
            rows = await store.least_used(self._database, _STEP)
            if not rows:
                self._kept = 0
            for row in rows:
                if self._kept + size <= budget:
                    break
                await self.forget(row)

    async def forget(self, row: MediaRow) -> None:
        """Drop what is only cached."""
        forms = await self._forms(row.hash) if row.hash is not None else 0
        await self._files.drop(row)
        self._kept = max(0, self._kept - row.size - forms)

    async def keep_form(self, digest: bytes, size: int) -> None:
        """A smaller form of a content was stored, which takes room where that is only cached."""
        names = await store.cached_names(self._database, digest)
        if names:
            async with self._room:
                self._kept += names * size
                await self._make_room(0)

    async def _forms(self, digest: bytes) -> int:
        """How many bytes the smaller forms of a content have."""
        forms = await store.thumbnails(self._database, digest)
        return sum(form.size for form in forms.values() if form.thumb_hash != digest)

    async def touch(self, row: MediaRow) -> None:
        """What is only cached is used now."""
        now = self._clock.now_ms()
        if row.used_ts is not None and now - row.used_ts >= TOUCHED_MS:
            await self._commits.commit([store.touched(row, now)])


def _refusal(error: Exception) -> MatrixError:
    """What a client is told of a file that did not come."""
    if isinstance(error, MatrixError) and error.errcode != "M_FORBIDDEN":
        return error
    if isinstance(error, MatrixError):
        return MatrixError.not_found("There is no such file")
    if isinstance(error, TooLong):
        return MatrixError("M_TOO_LARGE", "The file is larger than this server takes", 502)
    if isinstance(error, RemoteError) and error.errcode == "M_NOT_YET_UPLOADED":
        return MatrixError("M_NOT_YET_UPLOADED", "The content has not come yet", 504)
    if isinstance(error, RemoteError) and error.status in (403, 404):
        return MatrixError.not_found("The other server has no such file")
    return MatrixError("M_UNKNOWN", "The file could not be had from the other server", 502)
