"""The commit queue: everything durable passes here, many callers in one transaction.

Owns the order of commits and of publication. Its invariants: nobody is answered and nothing is
published before the commit; publication follows the stream's order; a poisoned item hurts only its
own caller; a caller always gets an answer, also when the writer itself breaks. It takes what waits
and never waits to fill a batch. It does not know what the changes mean.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

from homeserver.errors import MatrixError
from homeserver.ports import CommitMetrics
from homeserver.runtime.clock import Clock
from homeserver.runtime.costs import COST
from storage.changes import Change, CommitFailed, DatabaseGone, Item
from storage.engine import Database

log = logging.getLogger(__name__)

# A batch is bounded so that its callers wait for one short transaction, not for a backlog.
MAX_BATCH_ITEMS = 256
MAX_BATCH_CHANGES = 8_192
# Callers beyond this many waiting items are told to come again: memory stays bounded.
MAX_WAITING_ITEMS = 20_000

Publish = Callable[[int], None]


class Superseded(Exception):
    """An earlier item of the same lane failed, so this one stood on ground that does not exist."""


class Lane:
    """A sequence of items in which each may build on those before (one room's events).

    When an item of a lane fails, its generation rises and the lane's items that were already
    waiting are refused with `Superseded`.
    """

    __slots__ = ("generation",)

    def __init__(self) -> None:
        self.generation = 0


class _Waiting:
    __slots__ = ("cost", "done", "generation", "item", "lane", "publish")

    def __init__(
        self,
        item: Item,
        publish: Publish | None,
        lane: Lane | None,
        done: "asyncio.Future[int]",
    ) -> None:
        self.item = item
        self.publish = publish
        self.lane = lane
        self.generation = lane.generation if lane is not None else 0
        self.done = done
        self.cost = COST.get()

    @property
    def stale(self) -> bool:
        return self.lane is not None and self.lane.generation != self.generation

    def fail(self, error: BaseException) -> None:
        if self.lane is not None and not self.stale:
            self.lane.generation += 1
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # seen: the caller may have gone


class CommitQueue:
    """Group commit over one `Database`.

    `published` is told the last position of each batch after its items were published, also when
    the batch had no item with a publisher; `lost` is called when a publisher raised, so that what
    is kept in memory of the stream can be dropped.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        metrics: CommitMetrics,
        published: Callable[[int], None],
        lost: Callable[[int], None],
    ) -> None:
        self._database = database
        self._clock = clock
        self._metrics = metrics
        self._published = published
        self._lost = lost
        self._queue: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def start(self) -> None:
        """Start the writer; it lives until `close`."""
        self._task = asyncio.get_running_loop().create_task(self._supervise(), name="commit")

    async def close(self) -> None:
        """Commit what waits, then stop; later submissions are refused."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
            self._task = None

    def submit(
        self,
        changes: Sequence[Change],
        positions: int = 0,
        publish: Publish | None = None,
        lane: Lane | None = None,
    ) -> "asyncio.Future[int]":
        """Queue changes for the next transaction.

        `positions` is how many stream positions they take; `publish(first_position)` runs on the
        loop after the commit, in stream order, before the future completes with that position.
        The future fails with `Conflict` or `Missed` of storage (nothing of the item was written),
        `Superseded`, or a 503 `MatrixError` when the database can't be reached. Cancelling the
        future does not take the item back.
        """
        if self._closing or len(self._queue) >= MAX_WAITING_ITEMS:
            raise MatrixError("M_UNKNOWN", "The server is busy; try again shortly", 503)
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(Item(changes, positions), publish, lane, done))
        self._wake.set()
        return done

    async def commit(
        self, changes: Sequence[Change], positions: int = 0, publish: Publish | None = None
    ) -> int:
        """Submit and wait; the wait may be cancelled, the commit goes on."""
        return await self.submit(changes, positions, publish)

    async def _supervise(self) -> None:
        while True:
            try:
                await self._run()
                return
            except Exception:
                # Whatever was under way has been failed by `_write`; the queue goes on.
                log.exception("the commit writer broke and is restarted")

    async def _run(self) -> None:
        while True:
            if not self._queue:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            batch = self._take()
            if not batch:
                continue
            try:
                await self._write(batch)
            except BaseException:
                error = MatrixError("M_UNKNOWN", "The server could not store the change", 500)
                for waiting in batch:
                    waiting.fail(error)
                raise

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        changes = 0
        while self._queue and len(batch) < MAX_BATCH_ITEMS and changes < MAX_BATCH_CHANGES:
            waiting = self._queue.popleft()
            if waiting.stale:
                waiting.fail(Superseded())
                continue
            changes += len(waiting.item.changes)
            batch.append(waiting)
        return batch

    async def _write(self, batch: list[_Waiting]) -> None:
        started = self._clock.monotonic()
        try:
            firsts = await self._database.commit([waiting.item for waiting in batch])
        except DatabaseGone as error:
            log.error("a batch of %d could not be committed: %s", len(batch), error)
            gone = MatrixError("M_UNKNOWN", "The database can't be reached", 503)
            for waiting in batch:
                waiting.fail(gone)
            return
        except CommitFailed as error:
            if len(batch) == 1:
                batch[0].fail(error)
                return
            for waiting in batch:
                if waiting.stale:
                    waiting.fail(Superseded())
                else:
                    await self._write([waiting])
            return
        seconds = self._clock.monotonic() - started
        self._metrics.committed(len(batch), seconds)
        for waiting in batch:
            if waiting.cost is not None:
                waiting.cost.database += seconds / len(batch)
        last = 0
        for waiting, first in zip(batch, firsts, strict=True):
            positions = waiting.item.positions
            if positions:
                last = first + positions - 1
            if waiting.publish is not None:
                try:
                    waiting.publish(first)
                except Exception:
                    log.exception("a publisher failed at position %d", first)
                    self._lost(last)
        if last:
            self._published(last)
        for waiting, first in zip(batch, firsts, strict=True):
            if not waiting.done.done():
                waiting.done.set_result(first)
