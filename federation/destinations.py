"""How it goes with other servers, and when one that fails is tried again.

Owns the pauses. For two minutes a server that fails is tried within seconds, because most outages
are restarts; then the pause is a minute and doubles to an hour, or to a day for those that nobody
has heard of for a week. Whatever comes from a server, signed, ends its pause at once. What failed
survives a restart. Nothing is sent from here.
"""

import logging
import random
from collections.abc import Callable, Collection
from contextlib import suppress

from homeserver.errors import MatrixError, Unreachable
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from storage import federation as store
from storage.changes import Delete, Put
from storage.engine import Database
from storage.schema import BlockedServerRow, DestinationRow

log = logging.getLogger(__name__)

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

RESTART_MS = 2 * MINUTE
LONGEST_RESTART_PAUSE_MS = 30 * SECOND
FIRST_PAUSE_MS = MINUTE
ALIVE_MS = 7 * DAY
SUCCESS_SAVED_MS = HOUR
STRANGERS_KEPT_MS = DAY
MAX_IN_MEMORY = 50_000
JITTER = 0.1


class Destinations:
    """Every other server that was ever spoken to."""

    def __init__(self, database: Database, commits: CommitQueue, clock: Clock) -> None:
        self._database = database
        self._commits = commits
        self._clock = clock
        self._rows: dict[str, DestinationRow] = {}
        self._tried: dict[str, int] = {}
        self._watchers: list[Callable[[str], None]] = []
        self._blocked: set[str] = set()

    def on_alive(self, watcher: Callable[[str], None]) -> None:
        """Call `watcher(server)` whenever a server that failed has come back."""
        self._watchers.append(watcher)

    async def state(self, server: str) -> DestinationRow:
        """How it goes with a server."""
        row = self._rows.get(server)
        if row is None:
            stored = (await store.destinations(self._database, [server])).get(server)
            row = (
                self._rows.get(server) or stored or DestinationRow(server, None, None, 0, 0, 0, "")
            )
            self._keep(row)
        return row

    async def load(self) -> None:
        """Learn which servers are blocked; to be called before anything else."""
        blocked = await store.blocked_servers(self._database)
        self._blocked = {server.lower() for server in blocked}

    @property
    def blocked(self) -> Collection[str]:
        """The servers that are not spoken with."""
        return self._blocked

    def is_failing(self, server: str) -> bool:
        """Whether the server, whose state was asked for before, did not answer the last time."""
        row = self._rows.get(server)
        return row is not None and row.failing_since_ts is not None

    def is_blocked(self, server: str) -> bool:
        """Whether an operator wants the server neither asked nor answered, in whatever case."""
        return server.lower() in self._blocked

    async def block(self, server: str) -> None:
        """Neither ask nor answer the server from now on."""
        name = server.lower()
        await self._commits.commit([Put(BlockedServerRow(name, self._clock.now_ms()))])
        self._blocked.add(name)

    async def allow(self, server: str) -> None:
        """Speak with the server again, at once."""
        name = server.lower()
        await self._commits.commit([Delete(BlockedServerRow, (one,)) for one in {name, server}])
        self._blocked.discard(name)
        await self.state(server)
        self.reset(server)

    async def check(self, server: str) -> None:
        """Raise Unreachable while the server is not to be tried."""
        if self.is_blocked(server):
            raise Unreachable(server, "it is blocked on this server")
        row = await self.state(server)
        if row.failing_since_ts is not None and self._clock.now_ms() < row.retry_ts:
            raise Unreachable(server, f"it failed and waits: {row.error}", row.retry_ts)

    async def failed(self, server: str, reason: str, tried_ts: int) -> int:
        """A request begun at `tried_ts` got no answer; returns when to try again (ms).

        Of several requests that were under way together the first failure counts.
        """
        row = await self.state(server)
        if tried_ts < self._tried.get(server, 0):
            return row.retry_ts
        now = self._clock.now_ms()
        since = row.failing_since_ts if row.failing_since_ts is not None else now
        if row.failing_since_ts is None:
            log.info("%s does not answer: %s", server, reason)
        failures = row.failures + 1
        pause = self._pause(row, failures, now - since, now)
        retry = now + int(pause * (1 - JITTER * random.random()))
        row = DestinationRow(
            server, row.last_success_ts, since, failures, pause, retry, reason[:500]
        )
        self._tried[server] = now
        self._keep(row)
        self._save(row)
        return retry

    async def succeeded(self, server: str) -> None:
        """The server has answered, or has sent something that it signed."""
        row = self._rows.get(server) or await self.state(server)
        now = self._clock.now_ms()
        was_failing = row.failing_since_ts is not None
        if not was_failing and now - (row.last_success_ts or 0) < SUCCESS_SAVED_MS:
            return
        row = DestinationRow(server, now, None, 0, 0, 0, "")
        self._keep(row)
        self._save(row)
        if was_failing:
            log.info("%s is back", server)
            self.reset(server)

    def reset(self, server: str) -> None:
        """Try the server at once: it was heard of, it has moved, or an operator says so."""
        row = self._rows.get(server)
        if row is not None and row.failing_since_ts is not None:
            row = row._replace(retry_ts=0, pause_ms=0)
            self._keep(row)
            self._save(row)
        for watcher in self._watchers:
            watcher(server)

    async def forget_strangers(self) -> None:
        """Drop from the database what never answered and was last tried over a day ago."""
        before = self._clock.now_ms() - STRANGERS_KEPT_MS
        await self._commits.commit([store.strangers_forgotten(before)])

    def _pause(self, row: DestinationRow, failures: int, failing_ms: int, now: int) -> int:
        if failing_ms < RESTART_MS:
            return min(SECOND << min(failures - 1, 10), LONGEST_RESTART_PAUSE_MS)
        recently = row.last_success_ts is not None and now - row.last_success_ts < ALIVE_MS
        longest = HOUR if recently else DAY
        if row.pause_ms < FIRST_PAUSE_MS:
            return FIRST_PAUSE_MS
        return min(2 * row.pause_ms, longest)

    def _keep(self, row: DestinationRow) -> None:
        self._rows[row.server] = row
        if len(self._rows) > MAX_IN_MEMORY:
            gone = next(iter(self._rows))
            del self._rows[gone]
            self._tried.pop(gone, None)

    def _save(self, row: DestinationRow) -> None:
        with suppress(MatrixError):  # the queue is full or closed: memory has it
            self._commits.submit([Put(row)])
