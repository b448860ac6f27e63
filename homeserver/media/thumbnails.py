"""Thumbnails: smaller forms of pictures, made when they are first asked for.

Owns which sizes there are and which of them an asker gets, and that each is made once. Invariant: a
picture is read by a process that has nothing to lose (`shrinking.py`); one that could not be made
smaller is not tried again for a while. Which file may be shown at all is decided before, in
`downloads.py`. spec: client-server-api#thumbnails
"""

import asyncio
import logging
from collections import OrderedDict

from homeserver.errors import MatrixError
from homeserver.media.downloads import Content
from homeserver.media.files import Files
from homeserver.media.remote import Remote
from homeserver.media.shrinkers import Box, NoPicture, Shrinkers
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from storage import media as store
from storage.blobs import BlobMissing
from storage.changes import Put
from storage.engine import Database
from storage.schema import ThumbnailRow

__all__ = ["Box", "Thumbnails"]

log = logging.getLogger(__name__)

SIZES = (
    Box(32, 32, True, False),
    Box(96, 96, True, False),
    Box(320, 240, False, False),
    Box(640, 480, False, False),
    Box(800, 600, False, False),
)
"""The sizes that the specification recommends; no others are made."""
TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp", "image/avif"})
FAILED_SECONDS = 3_600.0
_MOST_FAILED = 10_000


class Thumbnails:
    """See the module."""

    def __init__(
        self,
        files: Files,
        remote: Remote,
        shrinkers: Shrinkers,
        database: Database,
        commits: CommitQueue,
        clock: Clock,
    ) -> None:
        self._files = files
        self._remote = remote
        self._shrinkers = shrinkers
        self._database = database
        self._commits = commits
        self._clock = clock
        self._making: dict[tuple[bytes, str], asyncio.Task[ThumbnailRow]] = {}
        self._failed: OrderedDict[tuple[bytes, str], float] = OrderedDict()

    async def of(self, content: Content, box: Box) -> Content:
        """The smaller form of a picture that fits a size best, or the picture if it is small.

        Raises MatrixError: M_INVALID_PARAM for a size of nothing, M_UNKNOWN (400) for what is no
        picture that can be read, M_NOT_FOUND when the file has gone.
        """
        if not box.width or not box.height:
            raise MatrixError.invalid_param("width and height: a picture has at least one pixel")
        if content.content_type.partition(";")[0] not in TYPES:
            raise _no_picture()
        box = fitting(box)
        spec = f"{box.width}x{box.height}{'-crop' * box.crop}{'-animated' * box.animated}"
        row = (await store.thumbnails(self._database, content.digest)).get(spec)
        if row is None:
            row = await self._made(content, spec, box)
        if row.thumb_hash == content.digest:
            return content
        return Content(content.name, row.thumb_hash, row.size, row.content_type, None)

    async def close(self) -> None:
        """Give up what is under way."""
        making = list(self._making.values())
        for task in making:
            task.cancel()
        if making:
            await asyncio.wait(making)
        await self._shrinkers.close()

    async def _made(self, content: Content, spec: str, box: Box) -> ThumbnailRow:
        key = content.digest, spec
        if self._clock.monotonic() < self._failed.get(key, 0.0):
            raise _no_picture()
        making = self._making.get(key)
        if making is None:
            making = asyncio.get_running_loop().create_task(self._make(content, spec, box))
            self._making[key] = making
            making.add_done_callback(lambda _: self._making.pop(key, None))
        return await asyncio.shield(making)

    async def _make(self, content: Content, spec: str, box: Box) -> ThumbnailRow:
        digest = content.digest
        try:
            async with self._files.on_disk(digest) as path:
                shrunk = await self._shrinkers.shrink(path, box)
        except BlobMissing:
            raise MatrixError.not_found("There is no such file") from None
        except NoPicture as error:
            log.info("no thumbnail of %s: %s", content.name, error)
            self._failed[digest, spec] = self._clock.monotonic() + FAILED_SECONDS
            if len(self._failed) > _MOST_FAILED:
                self._failed.popitem(last=False)
            raise _no_picture() from None
        if shrunk is None:
            row = ThumbnailRow(digest, spec, digest, content.size, content.content_type)
            await self._commits.commit([Put(row)])
            return row
        async with self._files.draft() as draft:
            await draft.write(shrunk.data)
            await draft.finish()
            row = ThumbnailRow(digest, spec, draft.digest, draft.size, shrunk.content_type)
            await self._files.keep(draft, [Put(row)])
        await self._remote.keep_form(digest, row.size)
        return row


def fitting(wanted: Box) -> Box:
    """The size that an asker gets: the smallest that is not smaller than asked, else the largest.

    Small ones are cut to fill their size, larger ones are not: a frame is filled best by the next
    larger form of the whole picture.
    """
    found = next(
        (
            size
            for size in SIZES
            if size.width >= wanted.width
            and size.height >= wanted.height
            and (not size.crop or wanted.crop)
        ),
        SIZES[-1],
    )
    return found._replace(animated=wanted.animated)


def _no_picture() -> MatrixError:
    return MatrixError("M_UNKNOWN", "This file can't be made into a thumbnail", 400)
