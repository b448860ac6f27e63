"""Work that must be done although nobody waits for it, and although the server may stop.

Owns the table of jobs and running them. A job is written in the transaction of what causes it, runs
at least once, and again with growing pauses while it fails; so handlers must not mind being run
twice. Two jobs of the same kind and arguments never run at the same time. What a job does is its
handler's business.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from homeserver.matrix.canonical import JsonObject, decode_object, encode
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from homeserver.streams.numbers import Numbers
from storage import accounts as store
from storage.changes import Change, Delete, Insert, Put
from storage.engine import Database
from storage.schema import JobRow

log = logging.getLogger(__name__)

Handler = Callable[[JsonObject], Awaitable[None]]

AT_ONCE = 8
MAX_TRIES = 12
FIRST_PAUSE_MS = 2_000
LONGEST_PAUSE_MS = 3_600_000
LOOK_AGAIN_SECONDS = 60.0


class Jobs:
    """The jobs of this server; `handlers` by kind."""

    def __init__(
        self, database: Database, commits: CommitQueue, numbers: Numbers, clock: Clock
    ) -> None:
        self._database = database
        self._commits = commits
        self._numbers = numbers
        self._clock = clock
        self._handlers: dict[str, Handler] = {}
        self._running: dict[int, tuple[str, bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()

    def handle(self, handlers: Mapping[str, Handler]) -> None:
        """Say who does jobs of these kinds; before `run`."""
        self._handlers.update(handlers)

    async def new(self, kind: str, args: JsonObject) -> Change:
        """The change that adds a job, due at once; call `wake` when it is committed."""
        job_nid = await self._numbers.take_soon("job")
        return Insert(JobRow(job_nid, kind, encode(args), self._clock.now_ms(), 0))

    def wake(self) -> None:
        """There may be new jobs."""
        self._wake.set()

    async def run(self) -> None:
        """Do jobs as they fall due, until cancelled."""
        try:
            while True:
                self._wake.clear()
                now = self._clock.now_ms()
                await self._start_due(now)
                await self._pause(now)
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    async def _start_due(self, now: int) -> None:
        free = AT_ONCE - len(self._running)
        if free <= 0:
            return
        due = await store.jobs_due(self._database, now, 4 * AT_ONCE)
        for job in due:
            if free <= 0:
                return
            if job.job_nid in self._running or (job.kind, job.args) in self._running.values():
                continue
            free -= 1
            self._running[job.job_nid] = (job.kind, job.args)
            task = asyncio.get_running_loop().create_task(self._do(job), name=f"job {job.kind}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _do(self, job: JobRow) -> None:
        try:
            outcome = await self._outcome(job)
            try:
                await self._commits.commit([outcome])
            except Exception:
                log.exception("the end of a job could not be stored: %s", job.kind)
                await self._clock.sleep(FIRST_PAUSE_MS / 1000)
        finally:
            del self._running[job.job_nid]
            self._wake.set()

    async def _outcome(self, job: JobRow) -> Change:
        """Do the job; the change that says so, or when to try again."""
        try:
            handler = self._handlers.get(job.kind)
            if handler is None:
                raise LookupError(f"nobody does jobs of the kind {job.kind}")
            await handler(decode_object(job.args))
        except Exception:
            tries = job.tries + 1
            if tries < MAX_TRIES:
                pause = min(FIRST_PAUSE_MS << job.tries, LONGEST_PAUSE_MS)
                log.exception("a job failed and waits %d s: %s", pause // 1000, job.kind)
                return Put(job._replace(tries=tries, run_at=self._clock.now_ms() + pause))
            log.exception("a job failed for the last time and is given up: %s", job.kind)
        return Delete(JobRow, (job.job_nid,))

    async def _pause(self, looked: int) -> None:
        """Wait for a call of `wake` or the next job that falls due after `looked` (ms).

        What was due then runs, or waits for one that runs, whose end wakes.
        """
        next_at = await store.next_job_at(self._database, looked)
        seconds = LOOK_AGAIN_SECONDS
        if next_at is not None:
            seconds = min(max((next_at - self._clock.now_ms()) / 1000, 0.05), seconds)
        timer = self._clock.call_later(seconds, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
