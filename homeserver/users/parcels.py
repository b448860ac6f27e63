"""To-device messages on their way into inboxes.

Owns the parcels: what one request sends to many devices is one row, because most devices fetch
their messages at once and never need more. What they do not fetch is sorted into the devices'
inboxes now and then, and before anybody reads those. Invariants: a message stands in a parcel or in
an inbox, never in both or in none before it was fetched; every parcel is newer than all that
stands in inboxes; how much waits in parcels is bounded.
"""

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Final

from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from storage import to_device as store
from storage.changes import Change, Insert, Pos
from storage.engine import Database
from storage.schema import ParcelRow, ToDeviceRow

SORT_SECONDS: Final = 10.0
"""How long a device has to fetch its messages before they are sorted into its inbox."""
MAX_BYTES: Final = 8 * 1_048_576
"""Who would send more before these are sorted waits for that."""
_AT_ONCE: Final = 50
_MESSAGES_AT_ONCE = 2_000
_COUNT_EVERY = 1_000


class Parcels:
    """See the module. `run` is a service; `pos` is the stream's position at the start."""

    def __init__(self, database: Database, commits: CommitQueue, clock: Clock, pos: int) -> None:
        self._database = database
        self._commits = commits
        self._clock = clock
        self._lock = asyncio.Lock()
        self._last = pos  # of parcels that may be there
        self._sorted = 0  # up to here none is there any more
        self._sorting = pos  # up to here messages may stand in inboxes
        self._under_way: asyncio.Future[int] | None = None
        self._arrived = asyncio.Event()
        self._bytes = 0
        self._fetched: dict[int, int] = {}
        self._grown: dict[int, int] = {}
        self._to_count: set[int] = set()

    async def packed(self, messages: Mapping[int, bytes]) -> list[Change]:
        """What puts messages (JSON by device) on their way, at the item's first position."""
        if self._bytes > MAX_BYTES:
            await self.sort()
        if not messages:
            return []
        json = b"[%b,[%b]]" % (canonical.encode([*messages]), b",".join(messages.values()))
        return [Insert(ParcelRow(Pos(0), json))]

    def arrived(self, pos: int, size: int) -> None:
        """A parcel of this many bytes was committed."""
        self._last = max(self._last, pos)
        self._bytes += size
        self._arrived.set()

    def fetched(self, device_nids: Collection[int], first: int, until: int) -> list[Change]:
        """Devices have their messages up to a position, of which the first stands at `first`.

        What removes those that stand in inboxes.
        """
        if until > self._sorted:
            self._fetched |= dict.fromkeys(device_nids, until)
        return [store.received(device_nids, until)] if first <= self._sorting else []

    def forget(self, device_nids: Collection[int]) -> None:
        """These devices have ended, their inboxes with them."""
        if self._last > self._sorted:
            self._fetched |= dict.fromkeys(device_nids, self._last)
        for device_nid in device_nids:
            self._grown.pop(device_nid, None)
        if self._under_way is not None and not self._under_way.done():
            with suppress(MatrixError):  # the queue is full: rows of nobody stay behind
                self._commits.submit([store.dropped(device_nids)])

    def grown(self) -> Collection[int]:
        """The devices whose inboxes should be counted, since this was asked last."""
        found, self._to_count = self._to_count, set()
        return found

    async def run(self) -> None:
        """Sort now and then what has come, until cancelled."""
        while True:
            if self._last <= self._sorted:
                self._arrived.clear()
                await self._arrived.wait()
            await self._clock.sleep(SORT_SECONDS)
            await self.sort()

    async def sort(self) -> None:
        """Afterwards all that was published and not fetched stands in inboxes."""
        if self._last <= self._sorted:
            return
        async with self._lock:
            wanted = self._last
            while self._sorted < wanted:
                # Whoever began it may have been cancelled; its commit goes on.
                if self._under_way is not None and not self._under_way.done():
                    await asyncio.wait([self._under_way])
                rows = await store.parcels(self._database, self._sorted, _AT_ONCE)
                if not rows:
                    self._done(wanted)
                    return
                rows = _first(rows)
                nids = {nid for _, messages in rows for nid in messages}
                await self._put(rows, await store.alive(self._database, nids))

    async def _put(self, rows: list[store.Parcel], alive: Collection[int]) -> None:
        last = rows[-1].pos
        self._sorting = max(self._sorting, last)
        fetched = self._fetched
        left = [
            ToDeviceRow(device_nid, pos, bytes(json))
            for pos, messages in rows
            for device_nid, json in messages.items()
            if device_nid in alive and pos > fetched.get(device_nid, 0)
        ]
        left.sort()  # so that what is written together lies together
        changes: list[Change] = [*map(Insert, left), store.sorted_up_to(last)]

        def publish(_: int) -> None:
            self._done(last)
            for row in left:
                grown = self._grown[row.device_nid] = self._grown.get(row.device_nid, 0) + 1
                if grown % _COUNT_EVERY == 0:
                    self._to_count.add(row.device_nid)

        self._under_way = self._commits.submit(changes, 0, publish)
        await asyncio.shield(self._under_way)

    def _done(self, pos: int) -> None:
        self._sorted = max(self._sorted, pos)
        self._fetched = {nid: until for nid, until in self._fetched.items() if until > pos}
        if self._last <= self._sorted:
            self._bytes = 0


def _first(parcels: list[store.Parcel]) -> list[store.Parcel]:
    """As many parcels as one transaction takes; one at least."""
    count = 0
    for number, (_, messages) in enumerate(parcels, 1):
        count += len(messages)
        if count >= _MESSAGES_AT_ONCE:
            return parcels[:number]
    return parcels
