"""What one server still has to get, and getting it there: in order, one transaction at a time.

Owns the events and EDUs that wait for a server, and the pauses between tries. Events come from
memory while the server keeps up; when it does not, they are dropped from memory and found in the
database again (`behind`). Invariant: everything up to `acked` has been delivered; nothing after it
is lost by a crash, because what is `behind` or not acknowledged is sent again. A task runs only
while there is something to send and the server is not left alone.
spec: server-server-api#transactions
"""

import asyncio
import itertools
import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from federation.destinations import FIRST_PAUSE_MS, Destinations
from federation.outbound_catchup import missed
from federation.outbound_events import Pdu, Pdus
from federation.outbound_lists import ListNote, OwnLists
from federation.outbound_transactions import (
    MAX_EDU_BYTES,
    MAX_EDUS,
    MAX_PDUS,
    Busy,
    Ephemeral,
    Refused,
    Transaction,
    deliver,
)
from federation.requests import Requests
from homeserver.errors import Unreachable
from homeserver.runtime.clock import Clock, Timer
from storage import outbound as store
from storage.engine import Database
from storage.outbound import WaitingEdu
from storage.schema import EduOutboxRow

log = logging.getLogger(__name__)

MAX_PENDING = 1_000
"""Events in memory for one server; when more wait, it is behind."""
MAX_EPHEMERAL = 500
MAX_LISTS = 1_000
"""Changes of device lists in memory for one server."""
MAX_FOUND = 400
"""Users whose lists are looked for at once."""
MAX_BUSY_MS = 3_600_000
TASKS = 250
"""Transactions under way at the same time, to all servers together that answered last time."""
DOUBTFUL = 100
"""The same for those that did not: they hold up nobody else."""
CATCHING_UP = 4
"""Servers for whom the database is searched at the same time."""
WHOLE = MAX_PDUS + MAX_EDUS
"""Things in one transaction, where the server has not refused as many."""
END = 2**62


@dataclass
class Means:
    """What all queues use together; `changed` is called when there is something to be saved."""

    origin: str
    database: Database
    requests: Requests
    destinations: Destinations
    clock: Clock
    pdus: Pdus
    lists: OwnLists
    position: Callable[[], int]
    changed: Callable[[], None]
    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(TASKS))
    doubtful: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(DOUBTFUL))
    catching_up: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CATCHING_UP))
    numbers: Iterator[int] = field(default_factory=itertools.count)


class Queue:
    """See the module. All calls happen on the loop."""

    __slots__ = (
        "_busy_until",
        "_caught_up",
        "_edus_done",
        "_ephemeral",
        "_goes_back",
        "_lists",
        "_looking",
        "_means",
        "_missed",
        "_most",
        "_pending",
        "_stopped",
        "_task",
        "_timer",
        "_transaction",
        "acked",
        "behind",
        "cleared",
        "delivered_edus",
        "edus",
        "letters",
        "saved",
        "server",
        "since_ms",
    )

    def __init__(self, server: str, means: Means, acked: int) -> None:
        self.server = server
        self.acked = acked
        self.behind = False
        self.edus = False
        """Whether the database may hold EDUs for it."""
        self.letters = False
        """Whether the database may hold events for it beside its rooms'."""
        self.cleared = 0
        """Up to where the rows of such events were dropped."""
        self.saved: int | None = None
        """The position of its row in the database, None without one."""
        self.delivered_edus: list[EduOutboxRow] = []
        """EDUs that it has had and whose rows are still to be dropped."""
        self.since_ms: int | None = None
        """Since when something waits for it."""
        self._means = means
        self._pending: deque[Pdu] = deque()
        self._missed: deque[Pdu] = deque()
        self._lists: deque[ListNote] = deque()
        self._caught_up = 0
        self._looking = False
        self._goes_back = False
        self._edus_done = (-END, 0)
        self._ephemeral: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._transaction: Transaction | None = None
        self._most = WHOLE
        self._task: asyncio.Task[None] | None = None
        self._timer: Timer | None = None
        self._busy_until = 0
        self._stopped = False

    # --- what waits

    def add(self, pdu: Pdu) -> None:
        """An event that was committed; later than all that were added before."""
        if not self.behind or self._looking:
            self._pending.append(pdu)
            if len(self._pending) > MAX_PENDING:
                self.acked = max(self.acked, self._pending[0].pos - 1)
                self._pending.clear()
                self.behind, self._looking = True, False
        self.wake()

    def add_list(self, notes: Sequence[ListNote]) -> None:
        """A list of devices has changed; later than all that was added before."""
        if not self.behind or self._looking:
            self._lists.extend(notes)
            if len(self._lists) > MAX_LISTS:
                self.fall_behind(self._lists[0].pos - 1)
        self.wake()

    def add_edus(self) -> None:
        """EDUs for the server were committed."""
        self.edus = True
        self.wake()

    def add_ephemeral(self, edu_type: str, content: bytes, key: str) -> None:
        """An EDU that may be lost; it takes the place of one of its type and key."""
        self._ephemeral.pop((edu_type, key), None)
        self._ephemeral[edu_type, key] = content
        if len(self._ephemeral) > MAX_EPHEMERAL:
            self._ephemeral.popitem(last=False)
        self.wake()

    def fall_behind(self, after: int) -> None:
        """Drop the events in memory, and look in the database for what comes after `after`.

        What was in memory is found there, too.
        """
        floor = self.floor
        self.acked = after if floor is None else min(floor, after)
        self.behind, self._looking, self._goes_back = True, False, True
        self._pending.clear()
        self._missed.clear()
        self._lists.clear()
        if self._task is None:
            self._transaction = None
        self._means.changed()

    @property
    def in_memory(self) -> int:
        """How many events wait in memory."""
        held = len(self._transaction.pdus) if self._transaction is not None else 0
        return len(self._pending) + len(self._missed) + held

    @property
    def lists_in_memory(self) -> int:
        """How many changes of lists of devices wait in memory."""
        held = len(self._transaction.lists) if self._transaction is not None else 0
        return len(self._lists) + held

    @property
    def waits(self) -> bool:
        """Whether anything waits to be delivered."""
        return bool(
            self.behind
            or self._pending
            or self._missed
            or self._lists
            or self._transaction is not None
            or self.edus
            or self._ephemeral
        )

    @property
    def floor(self) -> int | None:
        """The position after which something is not delivered; None when all is."""
        held = self._transaction
        events = (held.pdus if held is not None else (), self._missed, self._pending)
        lists = (held.lists if held is not None else (), self._lists)
        floors = [waiting[0].pos - 1 for waiting in (*events, *lists) if waiting]
        if self.behind:
            floors.append(self.acked)
        return min(floors, default=None)

    @property
    def is_slow(self) -> bool:
        """Whether it has a row of its own when positions are saved: others don't wait for it."""
        return self.behind or bool(self._missed) or self._timer is not None

    # --- sending

    def wake(self) -> None:
        """Send what waits, unless the server is left alone for a while."""
        if self._timer is not None:
            self._means.requests.look_soon(self.server)
        elif self._task is None and self.waits and not self._stopped:
            self._start()

    def retry(self) -> None:
        """Send what waits now: the server has been heard of, or an operator says so."""
        if self._timer is not None and self._means.clock.now_ms() >= self._busy_until:
            self._timer.cancel()
            self._timer = None
        self.wake()

    def stop(self) -> "asyncio.Task[None] | None":
        """Begin nothing any more; the task that ends with what is under way, if there is one."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        return self._task

    @property
    def is_idle(self) -> bool:
        """Whether it can be dropped: it would be made again as it is."""
        return not (
            self.waits
            or self._task is not None
            or self._timer is not None
            or self.saved is not None
            or self.letters
            or self.delivered_edus
        )

    def _start(self) -> None:
        if self.since_ms is None:
            self.since_ms = self._means.clock.now_ms()
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"to {self.server}")
        self._task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._task = None
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            log.error("sending to %s failed", self.server, exc_info=error)
            self._pause(self._means.clock.now_ms() + 60_000)
        elif self._timer is None:
            self.wake()

    async def _run(self) -> None:
        """Send until nothing waits or the server must be left alone."""
        means = self._means
        try:
            await means.destinations.check(self.server)
            while not self._stopped:
                told = not self._missed and not self._lists
                if self._transaction is None and self.behind and told:
                    if self._is_failing:
                        # Whether it is there at all is asked first: looking up is dear.
                        await self._deliver(Transaction(self._id(), self.acked))
                    await self._look_up()
                    continue
                if self._transaction is None:
                    self._transaction = self._next()
                if not self._transaction.ready:
                    await self._fill(self._transaction)
                if self._transaction.size:
                    await self._deliver(self._transaction)
                    continue
                self._transaction = None
                if not self.waits:
                    self.since_ms = None
                    means.changed()
                    return
        except Unreachable as error:
            await self._unreachable(error)
        except Busy as error:
            self._busy_until = means.clock.now_ms() + min(max(error.wait_ms, 500), MAX_BUSY_MS)
            self._pause(self._busy_until)

    async def _deliver(self, transaction: Transaction) -> None:
        means = self._means
        try:
            async with means.doubtful if self._is_failing else means.places:
                now = means.clock.now_ms()
                await deliver(means.requests, self.server, transaction, means.origin, now)
        except Refused as error:
            self._refused(transaction, error)
            return
        self._most = WHOLE
        self._done(transaction)

    def _done(self, transaction: Transaction) -> None:
        self._transaction = None
        if transaction.pdus and not self._goes_back:
            last = transaction.pdus[-1].pos
            self.acked = max(self.acked, last if self._missed else max(last, transaction.until))
        if transaction.edus:
            self._edus_done = transaction.edus[-1].row[1:3]
            self.delivered_edus.extend(edu.row for edu in transaction.edus)
        self._means.changed()

    def _refused(self, transaction: Transaction, error: Refused) -> None:
        """Try smaller pieces, down to the one thing that the server can't take."""
        if transaction.size <= 1:
            names = [str(pdu.nid) for pdu in transaction.pdus]
            names += [note.type for note in transaction.lists]
            names += [edu.type for edu in transaction.edus]
            names += [edu.type for edu in transaction.ephemeral]
            log.warning("%s refuses %s, which is left out: %s", self.server, names, error)
            self._most = WHOLE
            self._done(transaction)
            return
        self._most = transaction.size // 2
        self._put_back(transaction.pdus)
        self._lists.extendleft(reversed(transaction.lists))
        for edu in transaction.ephemeral:
            self._ephemeral.setdefault((edu.type, edu.key), edu.content)
        self.edus = self.edus or bool(transaction.edus)
        self._transaction = None

    def _put_back(self, pdus: Sequence[Pdu]) -> None:
        if pdus:
            self._missed.extendleft(reversed(pdus))
            self._caught_up = max(self._caught_up, pdus[-1].pos)

    async def _unreachable(self, error: Unreachable) -> None:
        means = self._means
        row = await means.destinations.state(self.server)
        until = error.retry_ts
        if means.destinations.is_blocked(self.server):
            until = means.clock.now_ms() + MAX_BUSY_MS
        elif until is None:
            until = means.clock.now_ms() + 1_000
        elif not row.retry_ts:
            return  # it was heard of while the failure came home: nothing is to be waited for
        if row.pause_ms >= FIRST_PAUSE_MS or means.destinations.is_blocked(self.server):
            # It will take longer: memory is for those who are there.
            self._ephemeral.clear()
            floor = self.floor
            if floor is not None:
                self.fall_behind(floor)
            if self._transaction is not None:
                self.edus = self.edus or bool(self._transaction.edus)
            self._transaction = None
        self._pause(until)

    def _pause(self, until_ms: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        seconds = max(0.05, (until_ms - self._means.clock.now_ms()) / 1000)
        self._timer = self._means.clock.call_later(seconds, self._again)

    def _again(self) -> None:
        self._timer = None
        self.wake()

    @property
    def _is_failing(self) -> bool:
        return self._means.destinations.is_failing(self.server)

    # --- choosing what goes next

    async def _look_up(self) -> None:
        """Find in the database what the server has missed."""
        means = self._means
        async with means.catching_up:
            # What is committed from here on comes by `add`.
            self._pending.clear()
            self._looking, self._goes_back = True, False
            until = means.position()
            try:
                notes = await means.lists.missed(self.server, self.acked, MAX_FOUND)
                more = len({note.user_nid for note in notes}) >= MAX_FOUND
                if more:
                    until = min(until, notes[-1].pos)
                found = await missed(
                    means.database, self.server, self.acked, until, means.clock.now_ms()
                )
            finally:
                whole, self._looking = self._looking and not more, False
        self._missed = found
        self._lists = deque(sorted({*notes, *self._lists}))
        self._caught_up = until
        self.behind = not whole
        self.edus = self.letters = True
        if not found:
            self.acked = max(self.acked, until)
            means.changed()

    def _next(self) -> Transaction:
        """The next transaction, without what must be read for it."""
        source = self._missed or self._pending
        pdus = [source.popleft() for _ in range(min(len(source), self._most, MAX_PDUS))]
        until = self._caught_up if pdus and source is self._missed else 0
        return Transaction(self._id(), until, pdus)

    async def _fill(self, transaction: Transaction) -> None:
        """Add what the events' time and the limits allow of EDUs, and the events' JSON."""
        pdus = transaction.pdus
        more = bool(self._missed or self._pending)
        last = pdus[-1].pos if pdus and more else END
        # Those that are there were taken before something else could not be read.
        self._lists.extendleft(reversed(transaction.lists))
        transaction.lists = self._take_lists(last)
        if transaction.lists and self._lists and self._lists[0].pos <= last:
            last = transaction.lists[-1].pos
        transaction.edus, all_of_them = await self._waiting_edus(last, len(transaction.lists))
        until = last if all_of_them else transaction.edus[-1].row.pos
        if pdus and until < pdus[-1].pos:
            transaction.pdus = [pdu for pdu in pdus if pdu.pos <= until]
            self._put_back([pdu for pdu in pdus if pdu.pos > until])
        if transaction.size > self._most:
            self._shorten(transaction)
        if transaction.lists:
            transaction.told = await self._means.lists.contents(transaction.lists)
        if transaction.pdus:
            transaction.json = await self._means.pdus.json(transaction.pdus)
        if self._most == WHOLE or not transaction.size:
            left = min(self._most, MAX_EDUS) - len(transaction.edus) - len(transaction.lists)
            transaction.ephemeral = self._take_ephemeral(left)
        transaction.ready = True

    def _shorten(self, transaction: Transaction) -> None:
        """Leave in it the first of its things, in the order of the stream; the rest waits again.

        What was committed together goes in the order in which it is needed: keys, messages, events.
        """
        pdus, lists, edus = transaction.pdus, transaction.lists, transaction.edus
        things = [(note.pos, 0) for note in lists]
        things += [(edu.row.pos, 1) for edu in edus]
        things += [(pdu.pos, 2) for pdu in pdus]
        kept = Counter(kind for _, kind in sorted(things)[: self._most])
        transaction.lists, transaction.edus = lists[: kept[0]], edus[: kept[1]]
        transaction.pdus = pdus[: kept[2]]
        self._lists.extendleft(reversed(lists[kept[0] :]))
        self.edus = self.edus or len(edus) > kept[1]
        self._put_back(pdus[kept[2] :])

    def _take_lists(self, last: int) -> list[ListNote]:
        """The next changes of lists up to position `last`, half as many as EDUs may be."""
        found: list[ListNote] = []
        while self._lists and self._lists[0].pos <= last:
            if len(found) >= max(1, min(self._most, MAX_EDUS) // 2):
                break
            found.append(self._lists.popleft())
        return found

    async def _waiting_edus(self, last: int, taken_up: int) -> tuple[list[WaitingEdu], bool]:
        """The next EDUs up to position `last`, and whether these are all of them.

        So many of the places in the transaction are taken up.
        """
        if not self.edus:
            return [], True
        limit = max(1, min(self._most, MAX_EDUS) - taken_up)
        self.edus = False
        try:
            rows = await store.edus_waiting(
                self._means.database, self.server, self._edus_done, last, limit
            )
        except BaseException:
            self.edus = True
            raise
        taken = size = 0
        for row in rows:
            size += len(row.content)
            if taken and size > MAX_EDU_BYTES:
                break
            taken += 1
        all_of_them = taken == len(rows) < limit
        if not all_of_them or last != END:
            self.edus = True
        return rows[:taken], all_of_them

    def _take_ephemeral(self, most: int) -> list[Ephemeral]:
        found: list[Ephemeral] = []
        while self._ephemeral and len(found) < most:
            (edu_type, key), content = self._ephemeral.popitem(last=False)
            found.append(Ephemeral(edu_type, key, content))
        return found

    def _id(self) -> str:
        return f"{self._means.clock.now_ms()}-{next(self._means.numbers)}"
