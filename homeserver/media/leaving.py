"""Files that nothing shows any more go, some time after that.

Owns the decision. A file of this server goes when whoever has uploaded it has shown it and does so
no more (an event was redacted, an avatar replaced), and no event, profile or account data that this
server knows names it, or may name it unseen (`encrypted.py`). Invariant: that is so in the
transaction in which its name goes. What nobody may have shown stays; what somebody else has shown
and left stays too, or whoever knows a name could delete the file. Of other servers' files only the
copy goes, which comes again when it is asked for.
"""

import logging

from homeserver import config
from homeserver.media.files import Files
from homeserver.media.remote import Remote
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from storage import media as store
from storage import media_shown
from storage.changes import Missed
from storage.engine import Database
from storage.schema import MediaLeftRow

log = logging.getLogger(__name__)

HOUR_MS = 3_600_000
_AT_ONCE = 100


class Leaving:
    """See the module."""

    def __init__(
        self,
        options: config.Media,
        files: Files,
        remote: Remote,
        database: Database,
        commits: CommitQueue,
        clock: Clock,
        server_name: str,
    ) -> None:
        self._grace_ms = options.redacted_hours * HOUR_MS
        self._files = files
        self._remote = remote
        self._database = database
        self._commits = commits
        self._clock = clock
        self._server_name = server_name

    async def run(self) -> int:
        """Let go what has been left for long enough; how many files went."""
        gone = 0
        before = self._clock.now_ms() - self._grace_ms
        while rows := await media_shown.left_before(self._database, before, _AT_ONCE):
            for row in rows:
                gone += await self._look(row)
        return gone

    async def overdue(self, ms: int, limit: int) -> list[MediaLeftRow]:
        """What should have gone since so long."""
        before = self._clock.now_ms() - self._grace_ms - ms
        return await media_shown.left_before(self._database, before, limit)

    async def _look(self, left: MediaLeftRow) -> bool:
        """Whether the file goes; the row is dealt with, or comes again with what has changed."""
        server, media_id = left.server, left.media_id
        row = (await store.media(self._database, server, [media_id])).get(media_id)
        if row is None or row.hash is None:
            await self._commits.commit([media_shown.gone(server, media_id)])
            return False
        if server != self._server_name:
            await self._remote.forget(row)
            await self._commits.commit([media_shown.gone(server, media_id)])
            return True
        uploader = row.uploader_nid
        if media_id in await media_shown.shown(self._database, [media_id]):
            mine = left.sender_nid == uploader
            done = media_shown.looked_at(left) if mine else media_shown.done_with(left)
            await self._commits.commit([done])
            return False
        if uploader not in await media_shown.leavers(self._database, server, media_id):
            await self._commits.commit([media_shown.done_with(left)])
            return False
        try:
            await self._files.drop(row, [media_shown.dropped_unless_shown(row)])
        except Missed:
            log.debug("%s is shown again, or has gone", media_id)
            return False
        await self._commits.commit([media_shown.gone(server, media_id)])
        return True
