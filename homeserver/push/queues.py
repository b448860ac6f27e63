"""What each pusher over HTTP still has to be told, and telling it.

Owns the queue of each pusher and how it goes with its gateway. Invariants: a pusher is told in the
order in which its queue was filled; nothing leaves a queue before the gateway has taken it, or the
pusher has ended; from the first failure until all was told, the position before what failed stands
at the pusher, so that the cursor of all others can move on. A gateway that was away for long hears
of the newest event of each room, unless it was read meanwhile. Whom an event notifies is found in
`audience.py`, and how much is brought at once is the matter of `turns.py`.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from math import inf
from typing import NamedTuple

from homeserver.push.audience import Audience
from homeserver.push.badges import Badges
from homeserver.push.gateway import Gateway, GatewayFailed, Notice, Target, Waiting
from homeserver.push.missed import Missed
from homeserver.push.patience import LONGEST_PAUSE, Patience, pause_after
from homeserver.push.turns import Spawn, Turns
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from storage import push as store
from storage.changes import Change
from storage.engine import Database
from storage.memberships import of_user_in
from storage.schema import INVITE, PusherRow

log = logging.getLogger(__name__)

SUCCESS_EVERY_MS = 10 * 60_000
"""How often it is kept that a gateway takes what it is brought."""
MAX_WAITING = 50
"""A pusher's queue beyond this holds the newest event of each room only."""
MAX_ERROR = 500
MOST_TRIES = 12
"""How often an event is looked at before nobody is told of it: for some 20 minutes."""
_LOOKING_AT_ONCE = 4
BELIEVED_SECONDS = 1.0
"""For how long after it was read a pusher is believed to be as it was."""

_NOT_MADE = "the notification could not be made; the log has more"


class PusherState(NamedTuple):
    """When the gateway took something last (ms), whether it fails now, and how much waits."""

    success_ts: int | None
    failing: bool
    waiting: int


class _Queue:
    """What waits for a pusher, first the one that may be under way.

    `tries` counts how often that failed; the pusher's row was read at `read_at`.
    """

    __slots__ = ("key", "read_at", "target", "tries", "waiting")

    def __init__(self, target: Target, read_at: float, waiting: Iterable[Waiting] = ()) -> None:
        self.key: store.Key = target.row[:3]
        self.target = target
        self.tries = 0
        self.read_at = read_at
        self.waiting = deque(waiting)

    def keep_newest(self, first: int) -> None:
        """Beyond the first so many, which may be under way, keep the newest event of each room."""
        waiting = list(self.waiting)
        newest = {one.room_nid: one for one in waiting[first:]}
        self.waiting.clear()
        self.waiting.extend(waiting[:first])
        self.waiting.extend(sorted(newest.values(), key=lambda one: one.pos))


class _Past:
    """What a pusher's gateway took last: when (ms), how much was unread, and what is stored."""

    __slots__ = ("kept_ts", "success_ts", "unread")

    def __init__(self) -> None:
        self.kept_ts = 0
        self.success_ts = 0
        self.unread: int | None = None


class Queues:
    """See the module; `moved()` is called when a queue has become shorter."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        clock: Clock,
        audience: Audience,
        badges: Badges,
        missed: Missed,
        gateway: Gateway,
        patience: Patience,
        spawn: Spawn,
    ) -> None:
        self._database = database
        self._commits = commits
        self._clock = clock
        self._audience = audience
        self._badges = badges
        self._missed = missed
        self._gateway = gateway
        self._patience = patience
        self._spawn = spawn
        self._queues: dict[store.Key, _Queue] = {}
        self._failing: dict[store.Key, int] = {}
        # Pushers that missed something before the start.
        self._behind: dict[store.Key, PusherRow] = {}
        self._past: dict[store.Key, _Past] = {}
        # Those whose last success is not stored for long.
        self._unkept: dict[store.Key, _Past] = {}
        self._turns: Turns[_Queue] = Turns(self._bring, spawn)
        self._looking = asyncio.Semaphore(_LOOKING_AT_ONCE)
        self._started = False
        self.moved: Callable[[], object] = lambda: None
        self.sent = self.failures = 0

    @property
    def waiting(self) -> int:
        """Notifications that no gateway has taken yet."""
        return sum(len(queue.waiting) for queue in self._queues.values())

    @property
    def failing(self) -> dict[store.Key, int]:
        """The pushers whose gateways fail, each with the position up to which it was told all."""
        return self._failing.copy()

    def known(self, row: PusherRow) -> None:
        """Go on with a pusher as it is stored."""
        if row.pending_pos is not None:
            self._failing[row[:3]] = row.pending_pos
            if row.enabled:
                self._behind[row[:3]] = row

    def start(self, until: int) -> None:
        """Begin to tell, also what failing gateways have missed up to a position.

        Not before all else that happened up to there waits: a queue's end means all was told.
        """
        self._started = True
        for queue in list(self._queues.values()):
            self._go_on(queue)
        for key, row in self._behind.items():
            queue = self._queues[key] = _Queue(self._gateway.target(row), -inf)
            self._spawn("missed push", self._catch_up(queue, self._failing[key], until))
        self._behind.clear()

    def add(self, row: PusherRow, waiting: Waiting) -> None:
        """Tell a pusher, whose row was just read, after all that it is to be told already."""
        key, now = row[:3], self._clock.monotonic()
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue(self._gateway.target(row), now, [waiting])
            if self._started:
                self._go_on(queue)
            return
        queue.target, queue.read_at = self._gateway.target(row), now
        queue.waiting.append(waiting)
        if len(queue.waiting) > MAX_WAITING or key in self._failing:
            queue.keep_newest(1)

    def add_badge(self, row: PusherRow, pos: int) -> None:
        """Tell a pusher how much is unread, if nothing waits that says it anyway."""
        if row[:3] not in self._queues:
            self.add(row, Waiting(0, pos, None))

    def has_unread(self, user_nid: int, room_nid: int) -> bool:
        """Whether a room had unread notifications when a user's badge was told last."""
        return self._badges.has_unread(user_nid, room_nid)

    def told_up_to(self, pos: int) -> int:
        """The position, or the last one before it up to which all was told or stands at pushers."""
        for key, queue in self._queues.items():
            if queue.waiting and key not in self._failing:
                pos = min(pos, queue.waiting[0].pos - 1)
        return pos

    def successes(self) -> list[Change]:
        """What is to be kept of when gateways took something."""
        changes: list[Change] = []
        for key, past in self._unkept.items():
            past.kept_ts = past.success_ts
            changes.append(store.succeeded(key, past.kept_ts))
        self._unkept.clear()
        return changes

    def state(self, row: PusherRow) -> PusherState:
        """How it goes with a pusher."""
        key = row[:3]
        queue, past = self._queues.get(key), self._past.get(key)
        return PusherState(
            success_ts=past.success_ts if past is not None else row.success_ts,
            failing=key in self._failing,
            waiting=len(queue.waiting) if queue is not None else 0,
        )

    async def test(self, row: PusherRow, user_id: str, notice: Notice) -> str | None:
        """Bring this to the pusher's gateway now; what went wrong in words, or None."""
        try:
            unread = await self._badges.of(row.user_nid, user_id)
            if not await self._gateway.push(self._gateway.target(row), notice, unread):
                await self._end(row)
                return "the gateway knows the key no more: the pusher was removed"
        except GatewayFailed as failed:
            await self._commits.commit([self._noted(row[:3], str(failed))])
            return str(failed)
        self._took(row[:3], unread)
        return None

    async def _catch_up(self, queue: _Queue, since: int, until: int) -> None:
        """Deliver what was missed between two positions, and then what has come meanwhile."""
        missed: list[Waiting] = []
        for tries in range(1, MOST_TRIES + 1):
            last = tries == MOST_TRIES
            try:
                async with self._looking:
                    missed = await self._missed.of(queue.key[0], since, until, all_or_none=not last)
                break
            except Exception:
                log.exception("what a pusher missed could not be found")
            await self._patience.until_done(
                "what pushers missed waits for the database", lambda: store.cursor(self._database)
            )
            if not last:
                await self._clock.sleep(pause_after(tries))
        queue.waiting.extendleft(reversed(missed))
        queue.keep_newest(0)
        self._go_on(queue)

    def _go_on(self, queue: _Queue) -> None:
        """See to what is to be done next for a pusher of which nothing is under way."""
        if queue.waiting:
            self._turns.add(queue.target.way.host, queue)
        elif queue.key in self._failing:
            self._spawn("push recovered", self._recovered(queue))
        else:
            del self._queues[queue.key]

    async def _bring(self, queue: _Queue) -> None:
        """Bring the first of a queue to its gateway."""
        try:
            is_there = await self._told(queue)
        except Exception as error:
            self._spawn("push failed", self._failed(queue, error))
            return
        if not is_there:
            self._forget(queue.key)
            del self._queues[queue.key]
            return
        queue.tries = 0
        queue.waiting.popleft()
        self.moved()
        self._go_on(queue)

    async def _told(self, queue: _Queue) -> bool:
        """Tell a pusher what it is to be told first; False when it has ended."""
        believed = queue.read_at + BELIEVED_SECONDS >= self._clock.monotonic()
        if (queue.tries or not believed) and not await self._read(queue):
            return False
        key, target, waiting = queue.key, queue.target, queue.waiting[0]
        user_nid, notice = key[0], waiting.notice
        user_id = self._audience.user_id(user_nid)
        if user_id is None:
            return False
        unread = await self._badges.of(user_nid, user_id)
        if key in self._failing and not await self._matters(user_nid, waiting):
            notice = None
        if notice is None and not (target.way.wants_badge and self._is_new(key, unread)):
            await asyncio.sleep(0)  # There may be many that have nothing to be told.
            return True
        if not await self._gateway.push(target, notice, unread):
            await self._end(target.row)
            return False
        self._took(key, unread)
        self.sent += 1
        return True

    async def _read(self, queue: _Queue) -> bool:
        """Read the pusher anew; False when it has ended or is switched off."""
        row = await store.pusher(self._database, queue.key)
        if row is None or not row.enabled:
            await self._audience.user_changed(queue.key[0])
            return False
        queue.target = self._gateway.target(row)
        queue.read_at = self._clock.monotonic()
        return True

    def _is_new(self, key: store.Key, unread: int) -> bool:
        past = self._past.get(key)
        return past is None or past.unread != unread

    def _took(self, key: store.Key, unread: int) -> None:
        """The gateway has taken something that says how much is unread."""
        past = self._past.get(key)
        if past is None:
            past = self._past[key] = _Past()
        past.unread = unread
        past.success_ts = self._clock.now_ms()
        if past.success_ts >= past.kept_ts + SUCCESS_EVERY_MS:
            self._unkept[key] = past

    async def _matters(self, user_nid: int, waiting: Waiting) -> bool:
        """Whether what the gateway was not there for is still unread, or an open invite."""
        if not waiting.invites:
            return self._badges.has_unread(user_nid, waiting.room_nid)
        rows = await of_user_in(self._database, user_nid, [waiting.room_nid])
        return waiting.room_nid in rows and rows[waiting.room_nid].membership == INVITE

    async def _failed(self, queue: _Queue, error: Exception) -> None:
        """Note at the pusher why it was not told and from where on it is to be; try again later."""
        key, words = queue.key, str(error)
        if not isinstance(error, GatewayFailed):
            log.error("a notification could not be made", exc_info=error)
            words = _NOT_MADE
        self.failures += 1
        queue.tries += 1
        pause = pause_after(queue.tries)
        before = queue.waiting[0].pos - 1
        changes: list[Change] = []
        if key not in self._failing:
            log.info("a gateway of %s fails: %s", self._audience.user_id(key[0]), words)
            changes.append(store.pending_since(key, before))
        if words != queue.target.row.error or pause == LONGEST_PAUSE:
            changes.append(self._noted(key, words))
        if changes:
            await self._patience.until_done(
                "it could not be kept that a gateway fails", lambda: self._commits.commit(changes)
            )
        self._failing.setdefault(key, before)
        await self._clock.sleep(pause)
        self._go_on(queue)

    async def _recovered(self, queue: _Queue) -> None:
        """All was told; what comes from now on is told as usual."""
        del self._failing[queue.key]
        await self._patience.until_done(
            "it could not be kept that a gateway was told all",
            lambda: self._commits.commit([store.pending_since(queue.key, None)]),
        )
        self._go_on(queue)

    async def _end(self, row: PusherRow) -> None:
        """The gateway knows the pusher's key no more."""
        await self._commits.commit([store.pusher_ended(row[:3])])
        self._forget(row[:3])
        await self._audience.user_changed(row.user_nid)

    def _forget(self, key: store.Key) -> None:
        self._failing.pop(key, None)
        self._past.pop(key, None)
        self._unkept.pop(key, None)

    def _noted(self, key: store.Key, error: str) -> Change:
        return store.failed(key, error[:MAX_ERROR], self._clock.now_ms())
