"""Users who were erased, and since when.

Owns the set of them in memory, read once at the start, and adding to it. From then on, whoever
could not read an event of such a user before gets a redacted copy of it (`readable.py`); the events
themselves stay as they are.
spec: client-server-api#post_matrixclientv3accountdeactivate
"""

from homeserver.streams.commit import CommitQueue
from storage.account_changes import receipts_erased
from storage.accounts import erasures
from storage.changes import Change, Conflict, Insert, Pos
from storage.engine import Database
from storage.schema import ErasureRow

_PAGE = 1_000


class Erased:
    """The positions of the stream at which users were erased."""

    def __init__(self, database: Database, commits: CommitQueue) -> None:
        self._database = database
        self._commits = commits
        self._positions: dict[int, int] = {}

    async def load(self) -> None:
        """Read them all."""
        last = 0
        while page := await erasures(self._database, last, _PAGE):
            self._positions.update(page)
            last = max(page)

    async def add(self, user_nid: int) -> None:
        """Erase a user, receipts included; who is erased already stays so from then."""

        def publish(pos: int) -> None:
            self._positions[user_nid] = pos

        changes: list[Change] = [Insert(ErasureRow(user_nid, Pos(0))), receipts_erased(user_nid)]
        try:
            await self._commits.commit(changes, 1, publish)
        except Conflict:
            return

    def since(self, user_nid: int) -> int | None:
        """The position at which the user was erased, None for all others."""
        return self._positions.get(user_nid)
