"""Moving the stored files from one place to another, while both are in use.

Owns the walk through them. Invariant: a file is at its old place until it was read back from the
new one and had its hash; where the walk ends, by a kill as well, it can be begun again, and finds
what is left.
"""

from typing import NamedTuple

from homeserver.errors import MatrixError
from homeserver.media.files import PLACES, Files, Spoilt
from storage import media as store
from storage.blobs import BlobMissing
from storage.engine import Database

FILES_AT_ONCE = 50
BYTES_AT_ONCE = 64 * 1_048_576


class Moved(NamedTuple):
    """One step: how many files and bytes moved, which (hashes) can't, and where to go on.

    `after` is a hash in hexadecimal, None when all were looked at.
    """

    files: int
    bytes: int
    failed: list[str]
    after: str | None


class Moving:
    """See the module."""

    def __init__(self, files: Files, database: Database) -> None:
        self._files = files
        self._database = database

    async def step(self, to: str, after: str | None) -> Moved:
        """Move some files to a place, those whose hashes come after a given one.

        Raises MatrixError M_INVALID_PARAM for a place that is not there, M_UNKNOWN (503) when one
        can't be reached.
        """
        place = PLACES.get(to)
        if place is None or not self._files.has_place(place):
            raise MatrixError.invalid_param(f"to: files can't be kept in {to!r} here")
        last = bytes.fromhex(after) if after is not None else b""
        number = size = 0
        failed: list[str] = []
        rows = await store.blobs_after(self._database, last, FILES_AT_ONCE)
        for row in rows:
            last = row.hash
            if row.place != place:
                try:
                    moved = await self._files.move(row.hash, place)
                except (BlobMissing, Spoilt):
                    failed.append(row.hash.hex())
                    continue
                number += moved
                size += row.size * moved
                if size >= BYTES_AT_ONCE:
                    return Moved(number, size, failed, last.hex())
        return Moved(number, size, failed, last.hex() if rows else None)
