"""Forgetting the transaction ids of clients.

Owns how long they are kept: a day, in which a client may ask again for what it has sent. They go in
small steps, each a transaction of its own, so that nobody waits behind them. Recording and looking
them up is `posting`'s.
spec: client-server-api#transaction-identifiers
"""

from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from storage.engine import Database
from storage.events import txns_before

KEPT_MS = 24 * 3_600_000
STEP = 200
PAUSE_SECONDS = 600.0


class OldTransactions:
    """See the module."""

    def __init__(self, database: Database, commits: CommitQueue, clock: Clock) -> None:
        self._database = database
        self._commits = commits
        self._clock = clock

    async def run(self) -> None:
        """Forget again and again, until cancelled."""
        while True:
            await self.forget()
            await self._clock.sleep(PAUSE_SECONDS)

    async def forget(self) -> int:
        """Forget what is older than a day; how many there were."""
        forgotten = 0
        before = self._clock.now_ms() - KEPT_MS
        while changes := await txns_before(self._database, before, STEP):
            await self._commits.commit(changes)
            forgotten += len(changes)
        return forgotten
