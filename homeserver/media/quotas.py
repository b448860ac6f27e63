"""How much of the local users is here, and may be.

Owns what is remembered of that: `media_usage` says it, and is read once for each user who uploads.
Invariant: what is here and what is coming never pass a quota together, however many uploads of a
user run at once. The rows are written with the files, by who stores or drops them.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from homeserver import config
from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from storage import media as store
from storage.engine import Database

MOST_REMEMBERED = 1_000
MOST_SHOWN = 10


class Quotas:
    """See the module."""

    def __init__(self, options: config.Media, database: Database) -> None:
        self._options = options
        self._database = database
        self._here: OrderedDict[int, tuple[int, int]] = OrderedDict()
        self._coming: dict[int, int] = {}
        self._changes = 0

    async def check(self, user_nid: int, length: int) -> int:
        """How many bytes of a user are here.

        Raises MatrixError M_FORBIDDEN when no upload of `length` bytes may begin.
        """
        size, files = await self._of(user_nid)
        if files >= self._options.user_files:
            raise MatrixError.forbidden("You have as many files here as you may")
        if self._options.user_bytes and size + length > self._options.user_bytes:
            raise _over_quota()
        return size

    async def overview(self) -> JsonObject:
        """What all users have here, and those who have most."""
        size, files = await store.all_usage(self._database)
        most = await store.most_usage(self._database, MOST_SHOWN)
        return {
            "bytes": size,
            "files": files,
            "users": [
                {"user": user_id, "bytes": own, "files": number} for user_id, own, number in most
            ],
        }

    @contextmanager
    def coming(self, user_nid: int, here: int) -> Iterator[Callable[[int], None]]:
        """Counts bytes that are coming; the function adds some, and raises past the quota.

        `here`: what `check` has said.
        """
        mine = 0
        most = self._options.user_bytes

        def count(more: int) -> None:
            nonlocal mine
            mine += more
            coming = self._coming[user_nid] = self._coming.get(user_nid, 0) + more
            if most and coming + self._here.get(user_nid, (here, 0))[0] > most:
                raise _over_quota()

        try:
            yield count
        finally:
            left = self._coming.get(user_nid, 0) - mine
            if left > 0:
                self._coming[user_nid] = left
            else:
                self._coming.pop(user_nid, None)

    def changed(self, user_nid: int, size: int, files: int) -> None:
        """A commit has added so much, or taken it away."""
        self._changes += 1
        here = self._here.get(user_nid)
        if here is not None:
            self._here[user_nid] = here[0] + size, here[1] + files

    def forget(self, user_nid: int) -> None:
        """What was committed is not known."""
        self._changes += 1
        self._here.pop(user_nid, None)

    async def _of(self, user_nid: int) -> tuple[int, int]:
        here = self._here.get(user_nid)
        if here is not None:
            self._here.move_to_end(user_nid)
            return here
        changes = self._changes
        row = (await store.usage(self._database, [user_nid])).get(user_nid)
        here = (row.bytes, row.files) if row is not None else (0, 0)
        # What was read while something changed may be older than that.
        if changes == self._changes:
            self._here[user_nid] = here
            if len(self._here) > MOST_REMEMBERED:
                self._here.popitem(last=False)
        return here


def _over_quota() -> MatrixError:
    return MatrixError.forbidden("This upload would exceed what you may keep here")
