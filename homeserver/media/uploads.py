"""Uploads: from a client's bytes to an mxc:// URI that everybody can ask for.

Owns the making of media ids, the limit on size, and who waits for a content that has been
announced. Invariant: a URI that was answered has its content stored. Quotas are in `quotas.py`.
spec: client-server-api#content-repository
"""

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from homeserver import config
from homeserver.errors import MatrixError
from homeserver.matrix.mxc import Mxc
from homeserver.media.encrypted import UNKNOWN_TYPE, EncryptedFiles
from homeserver.media.files import Files
from homeserver.media.quotas import Quotas
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from storage import media as store
from storage.changes import Change, Insert, Missed
from storage.engine import Database
from storage.schema import MEDIA_OF_SERVICE, MediaRow

MAX_FILENAME = 255
PENDING_MS = 24 * 3_600_000
"""How long a URI may wait for its content."""

_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,64}/[A-Za-z0-9!#$&^_.+-]{1,64}")
_PARAMETER = re.compile(
    r'\s*[A-Za-z0-9!#$&^_.+-]{1,32}=(?:[A-Za-z0-9!#$&^_.+-]{1,64}|"[^"\\]{0,64}")\s*'
)


class Body(Protocol):
    """The bytes of an upload as they come."""

    length: int | None
    content_type: str | None

    def chunks(self, most: int) -> AsyncGenerator[bytes, None]:
        """The body in pieces; raises MatrixError M_TOO_LARGE beyond `most` bytes."""


@dataclass(frozen=True, slots=True)
class Created:
    """A URI that waits for its content until `expires_ts` (ms)."""

    uri: str
    expires_ts: int


class Uploads:
    """The uploads of local users."""

    def __init__(
        self,
        options: config.Media,
        files: Files,
        quotas: Quotas,
        encrypted: EncryptedFiles,
        database: Database,
        commits: CommitQueue,
        clock: Clock,
        server_name: str,
    ) -> None:
        self._options = options
        self._files = files
        self._quotas = quotas
        self._encrypted = encrypted
        self._database = database
        self._commits = commits
        self._clock = clock
        self._server_name = server_name
        self._filling: set[str] = set()
        self._awaited: dict[str, set[asyncio.Future[None]]] = {}

    @property
    def most(self) -> int:
        """The most bytes of one upload."""
        return self._options.max_upload_bytes

    async def upload(
        self, user_nid: int, body: Body, filename: str | None, *, by_service: bool
    ) -> str:
        """Store a content; its new mxc:// URI. `by_service`: an application service uploads it.

        Raises MatrixError: M_TOO_LARGE (413), M_FORBIDDEN (403) past the quota or for a content
        that is not allowed, M_UNKNOWN (507) when the disk is full.
        """
        row = self._row(user_nid, body, filename, by_service)
        await self._store(row, body, lambda filled: Insert(filled))
        self._encrypted.uploaded(row)
        return str(Mxc(row.server, row.media_id))

    async def create(self, user_nid: int, *, by_service: bool) -> Created:
        """Make a URI whose content is to follow; raises MatrixError M_LIMIT_EXCEEDED.

        spec: client-server-api#post_matrixmediav1create
        """
        now = self._clock.now_ms()
        if await store.pending(self._database, user_nid, now) >= self._options.max_pending:
            raise MatrixError(
                "M_LIMIT_EXCEEDED",
                "Too many of your uploads have not been made yet",
                429,
                extra={"retry_after_ms": 60_000},
            )
        row = self._row(user_nid, None, None, by_service)._replace(expires_ts=now + PENDING_MS)
        await self._commits.commit([Insert(row)])
        self._encrypted.announced(row)
        return Created(str(Mxc(row.server, row.media_id)), now + PENDING_MS)

    async def fill(self, user_nid: int, name: Mxc, body: Body, filename: str | None) -> None:
        """Store the content of a URI that `create` has made.

        Raises MatrixError as `upload` does, M_NOT_FOUND (404), M_FORBIDDEN for another user's URI
        and M_CANNOT_OVERWRITE_MEDIA (409).
        spec: client-server-api#put_matrixmediav3uploadservernamemediaid
        """
        row = await self._row_of(name) if name.server == self._server_name else None
        expired = row is not None and (row.expires_ts or 1 << 62) <= self._clock.now_ms()
        if row is None or expired or row.uploader_nid is None:
            raise MatrixError.not_found("There is no upload to be made at this URI")
        if row.uploader_nid != user_nid:
            raise MatrixError.forbidden("Only who has made the URI can give it its content")
        if row.hash is not None or name.media_id in self._filling:
            raise _already()
        self._filling.add(name.media_id)
        try:
            wanted = self._row(user_nid, body, filename)._replace(
                media_id=name.media_id, flags=row.flags
            )
            await self._store(wanted, body, store.filled)
        except Missed:
            raise _already() from None
        finally:
            self._filling.discard(name.media_id)
        for arrived in self._awaited.pop(name.media_id, ()):
            _set(arrived)
        self._encrypted.filled(wanted)

    async def arrival(self, media_id: str, seconds: float) -> None:
        """Wait until the content of a URI is there, at most so long."""
        if seconds <= 0:
            return
        waiters = self._awaited.setdefault(media_id, set())
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters.add(arrived)
        timer = self._clock.call_later(seconds, lambda: _set(arrived))
        try:
            row = await self._row_of(Mxc(self._server_name, media_id))
            if row is not None and row.hash is None:
                await arrived
        finally:
            timer.cancel()
            waiters.discard(arrived)
            if not waiters and self._awaited.get(media_id) is waiters:
                del self._awaited[media_id]

    async def forget_expired(self) -> None:
        """Drop the URIs whose content never came."""
        await self._commits.commit([store.pending_forgotten(self._clock.now_ms())])

    async def _row_of(self, name: Mxc) -> MediaRow | None:
        found = await store.media(self._database, name.server, [name.media_id])
        return found.get(name.media_id)

    def _row(
        self, user_nid: int, body: Body | None, filename: str | None, by_service: bool = False
    ) -> MediaRow:
        return MediaRow(
            server=self._server_name,
            media_id=secrets.token_urlsafe(18),
            hash=None,
            size=0,
            content_type=media_type(body.content_type if body is not None else None),
            filename=file_name(filename),
            uploader_nid=user_nid,
            created_ts=self._clock.now_ms(),
            used_ts=None,
            expires_ts=None,
            flags=MEDIA_OF_SERVICE * by_service,
        )

    async def _store(self, row: MediaRow, body: Body, change: Callable[[MediaRow], Change]) -> None:
        user_nid = row.uploader_nid or 0
        here = await self._quotas.check(user_nid, body.length or 0)
        async with self._files.draft() as draft:
            # Who is refused counts no more at once, before what was written of it is gone: else
            # two that have room for one of them could both be refused.
            with self._quotas.coming(user_nid, here) as count:
                async with aclosing(body.chunks(self.most)) as pieces:
                    async for piece in pieces:
                        count(len(piece))
                        await draft.write(piece)
                await draft.finish()
                filled = row._replace(hash=draft.digest, size=draft.size)
                counted = store.used(user_nid, draft.size, 1)
                try:
                    await self._files.keep(draft, [change(filled), counted])
                except BaseException:
                    self._quotas.forget(user_nid)
                    raise
                self._quotas.changed(user_nid, draft.size, 1)


def media_type(given: str | None) -> str:
    """A Content-Type as it is kept: small, well-formed, the type itself in lower case."""
    kind, *parameters = (given or "").split(";")
    kind = kind.strip().lower()
    if _TYPE.fullmatch(kind) is None or len(parameters) > 3:
        return UNKNOWN_TYPE
    kept = [one.strip() for one in parameters if _PARAMETER.fullmatch(one)]
    return "; ".join([kind, *kept])


def file_name(given: str | None) -> str | None:
    """A file's name as it is kept: no folders' parts, no control characters, not long."""
    if not given:
        return None
    shown = "".join(one for one in given if one.isprintable())
    return shown[:MAX_FILENAME] or None


def _set(arrived: "asyncio.Future[None]") -> None:
    if not arrived.done():
        arrived.set_result(None)


def _already() -> MatrixError:
    return MatrixError("M_CANNOT_OVERWRITE_MEDIA", "This URI has its content already", 409)
