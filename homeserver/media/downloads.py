"""Downloads: from an mxc:// URI to a stored file that may be shown.

Owns the decision whether a file is shown: what is quarantined or blocked is not there, for nobody;
an upload that is announced is waited for. Invariant: the decision is made on the row as it stands
at that moment. Files of other servers are fetched by `remote`.
spec: client-server-api#content-repository
"""

from dataclasses import dataclass

from homeserver import config
from homeserver.errors import MatrixError
from homeserver.matrix.ids import is_server_name
from homeserver.matrix.mxc import Mxc, is_media_id
from homeserver.media.files import Files
from homeserver.media.remote import Remote
from homeserver.media.uploads import Uploads
from homeserver.runtime.clock import Clock
from storage import media as store
from storage.engine import Database
from storage.schema import MEDIA_OPEN, MEDIA_QUARANTINED, MediaRow

MAX_WAIT_MS = 60_000
_NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for: the content of `name`, by whom in which way.

    `wait_ms`: how long to wait for an upload. `remote`: whether another server may be asked.
    `authenticated`: not by an old path that everybody may use.
    """

    name: Mxc
    wait_ms: int = 20_000
    remote: bool = True
    authenticated: bool = True


@dataclass(frozen=True, slots=True)
class Content:
    """A file that may be shown."""

    name: Mxc
    digest: bytes
    size: int
    content_type: str
    filename: str | None


class Downloads:
    """Finds what may be shown."""

    def __init__(
        self,
        options: config.Media,
        files: Files,
        uploads: Uploads,
        remote: Remote,
        database: Database,
        clock: Clock,
        server_name: str,
    ) -> None:
        self._options = options
        self._files = files
        self._uploads = uploads
        self._remote = remote
        self._database = database
        self._clock = clock
        self._server_name = server_name

    async def find(self, wanted: Wanted) -> Content:
        """The file of a URI.

        Raises MatrixError: M_NOT_FOUND, M_NOT_YET_UPLOADED (504) when it did not come in time, and
        what `Remote.find` raises of another server's.
        """
        name = wanted.name
        if not is_server_name(name.server) or not is_media_id(name.media_id):
            raise _not_found()
        frozen = not (wanted.authenticated or self._options.unauthenticated)
        if name.server == self._server_name:
            row = await self._local(wanted)
        else:
            # What everybody may ask for must not make this server ask others.
            fetch = wanted.remote and not frozen
            wait_ms = min(wanted.wait_ms, MAX_WAIT_MS)
            found = await self._remote.find(name, wait_ms, fetch=fetch)
            if found is None:
                raise _not_found()
            row = found
        digest = row.hash
        if digest is None:
            raise MatrixError("M_NOT_YET_UPLOADED", "The content has not come yet", 504)
        hidden = row.flags & MEDIA_QUARANTINED or self._files.judgement(digest) is not None
        if hidden or (frozen and not row.flags & MEDIA_OPEN):
            raise _not_found()
        return Content(name, digest, row.size, row.content_type, row.filename)

    async def _local(self, wanted: Wanted) -> MediaRow:
        name = wanted.name
        row = await self._row(name)
        if row is None or (row.expires_ts or _NEVER) <= self._clock.now_ms():
            raise _not_found()
        if row.hash is None and not row.flags & MEDIA_QUARANTINED:
            await self._uploads.arrival(name.media_id, min(wanted.wait_ms, MAX_WAIT_MS) / 1000)
            row = await self._row(name)
            if row is None:
                raise _not_found()
        # Pictures of previews are ours, and only cached.
        await self._remote.touch(row)
        return row

    async def _row(self, name: Mxc) -> MediaRow | None:
        return (await store.media(self._database, name.server, [name.media_id])).get(name.media_id)


def _not_found() -> MatrixError:
    return MatrixError.not_found("There is no such file")
