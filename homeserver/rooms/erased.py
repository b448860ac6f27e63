"""Users who were erased, and since when.

Owns the set of them in memory, read once at the start, and adding to it. From then on, whoever
could not read an event of such a user before gets a redacted copy of it (`readable.py`); the events
themselves stay as they are.
spec: client-server-api#post_matrixclientv3accountdeactivate
"""

from homeserver.streams.commit import CommitQueue
from homeserver.streams.numbers import Names
from storage.account_changes import receipts_erased
from storage.accounts import erasures
from storage.changes import Change, Conflict, Insert, Pos
from storage.engine import Database
from storage.schema import ErasureRow

_PAGE = 1_000


class Erased:
    """The positions of the stream at which users were erased."""

    def __init__(self, database: Database, commits: CommitQueue, names: Names) -> None:
        self._database = database
        self._names = names
        self._commits = commits
        self._positions: dict[str, int] = {}

    async def load(self) -> None:
        """Read them all."""
        last = 0
        while page := await erasures(self._database, last, _PAGE):
            names = await self._names.names(page)
            self._positions |= {names[user_nid]: pos for user_nid, pos in page.items()}
            last = max(page)

    async def add(self, user_nid: int, user_id: str) -> None:
        """Erase a user, receipts included; who is erased already stays so from then."""

        def publish(pos: int) -> None:
            self._positions[user_id] = pos

        changes: list[Change] = [Insert(ErasureRow(user_nid, Pos(0))), receipts_erased(user_nid)]
        try:
            await self._commits.commit(changes, 1, publish)
        except Conflict:
            return

    def since(self, user_id: str) -> int | None:
        """The position at which the user was erased, None for all others."""
        return self._positions.get(user_id)
