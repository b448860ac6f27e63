"""What administrators do about files: hide, block, delete, purge, look whether all is there.

Owns these acts. Invariant: what is hidden or blocked is so by its content, whoever uploads it under
whatever name, or, where the content is not here yet, by its name: then it is never fetched; nothing
that is deleted can be had from here any more. How a file goes is in
`files.py`, what is only cached in `remote.py`.
"""

import re
from typing import NamedTuple

from homeserver.errors import MatrixError
from homeserver.matrix.mxc import Mxc, parse
from homeserver.media.files import Files
from homeserver.media.leaving import Leaving
from homeserver.media.remote import Remote
from homeserver.runtime.clock import Clock
from storage import media as store
from storage.engine import Database
from storage.schema import JudgedHashRow, MediaRow

_AT_ONCE = 500
_MOST_SHOWN = 1_000
_DAY_MS = 86_400_000
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Fault(NamedTuple):
    """Something about a content (its hash in hexadecimal) that should not be so."""

    hash: str
    what: str


class Moderation:
    """See the module. A content is named by an mxc:// URI or by its SHA-256 in hexadecimal."""

    def __init__(
        self,
        files: Files,
        remote: Remote,
        leaving: Leaving,
        database: Database,
        clock: Clock,
        server_name: str,
    ) -> None:
        self._files = files
        self._remote = remote
        self._leaving = leaving
        self._database = database
        self._clock = clock
        self._server_name = server_name

    async def quarantine(self, name: str, reason: str) -> str:
        """Show a content to nobody, and keep it; its hash, or its name if it is not here.

        Raises MatrixError M_NOT_FOUND for a name of this server's that names nothing.
        """
        if await self._is_elsewhere(name):
            return await self._shun(name)
        digest = await self._digest(name)
        await self._files.judge(JudgedHashRow(digest, 0, reason, self._clock.now_ms()))
        return digest.hex()

    async def block(self, name: str, reason: str) -> str:
        """Delete a content under all its names and don't take it again; as `quarantine` else."""
        if await self._is_elsewhere(name):
            return await self._shun(name)
        digest = await self._digest(name)
        await self._files.judge(JudgedHashRow(digest, 1, reason, self._clock.now_ms()))
        while rows := await store.rows_of(self._database, digest, _AT_ONCE):
            for row in rows:
                await self._drop(row)
        return digest.hex()

    async def release(self, name: str) -> None:
        """Take a quarantine or block back; raises MatrixError M_NOT_FOUND."""
        uri = parse(name)
        if uri is not None and await self._is_elsewhere(name):
            if not await self._remote.unshun(uri):
                raise MatrixError.not_found("This content is neither hidden nor blocked")
            return
        if not await self._files.absolve(await self._digest(name)):
            raise MatrixError.not_found("This content is neither hidden nor blocked")

    async def delete(self, uri: str) -> None:
        """Delete what a URI names; raises MatrixError M_NOT_FOUND."""
        row = await self._row(uri)
        if row is None:
            raise MatrixError.not_found("There is no such file")
        await self._drop(row)

    async def shunned(self) -> list[str]:
        """What is hidden though it is not here, by its names."""
        return [str(Mxc(*name)) for name in await store.shunned(self._database, _MOST_SHOWN)]

    async def purge(self, before: int) -> int:
        """Drop other servers' files that were not used since `before` (ms); how many."""
        return await self._remote.purge(before)

    async def faults(self) -> list[Fault]:
        """What is missing, too much, or other than it should be; at most 1,000."""
        found: list[Fault] = []
        there = await self._files.sizes()
        after = b""
        while blobs := await store.blobs_after(self._database, after, _AT_ONCE):
            after = blobs[-1].hash
            named = await store.named(self._database, [blob.hash for blob in blobs])
            for blob in blobs:
                size = there.get(blob.place, {}).pop(blob.hash, None)
                if size is None:
                    found.append(Fault(blob.hash.hex(), "the file is missing"))
                elif size != blob.size:
                    found.append(Fault(blob.hash.hex(), "the file has another size"))
                if blob.hash not in named:
                    found.append(Fault(blob.hash.hex(), "nothing names it"))
        for place, more in there.items():
            for digest in more:
                # What was stored since the files were listed is no fault.
                known = await self._files.blob(digest)
                if known is None or known.place != place:
                    found.append(Fault(digest.hex(), "the file is not known"))
        for left in await self._leaving.overdue(_DAY_MS, _MOST_SHOWN):
            name = Mxc(left.server, left.media_id)
            row = (await store.media(self._database, left.server, [left.media_id])).get(
                left.media_id
            )
            if row is not None and row.hash is not None:
                found.append(Fault(row.hash.hex(), f"{name} should have gone"))
        return found[:_MOST_SHOWN]

    async def _drop(self, row: MediaRow) -> None:
        if row.uploader_nid is None:
            await self._remote.forget(row)
        else:
            await self._files.drop(row)

    async def _is_elsewhere(self, name: str) -> bool:
        """Whether this names a file of another server that was not fetched."""
        uri = parse(name)
        if uri is None or uri.server == self._server_name:
            return False
        row = await self._row(name)
        return row is None or row.hash is None

    async def _shun(self, name: str) -> str:
        """Never fetch what a name names."""
        uri = parse(name)
        assert uri is not None
        await self._remote.shun(uri)
        return name

    async def _row(self, uri: str) -> MediaRow | None:
        name = parse(uri)
        if name is None:
            raise MatrixError.invalid_param("This is no mxc:// URI")
        return (await store.media(self._database, name.server, [name.media_id])).get(name.media_id)

    async def _digest(self, name: str) -> bytes:
        if _DIGEST.fullmatch(name):
            return bytes.fromhex(name)
        row = await self._row(name)
        if row is None or row.hash is None:
            raise MatrixError.not_found("There is no such file")
        return row.hash
