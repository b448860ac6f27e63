"""Words move into the index, many at once.

Owns when. A message can be found from its commit on wherever its words are (`storage.search`); an
index of words is written far cheaper for many messages than for each. What a process leaves behind
is moved by the next one. Which words an event has is in `indexed.py`.
"""

import asyncio
from collections.abc import Collection

from homeserver.rooms.append import Appended
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from storage import search as store
from storage.changes import Conflict, Missed
from storage.engine import Database

AT_ONCE = 400
WITHIN_SECONDS = 5.0
LOOK_SECONDS = 300.0
"""So often it is looked for words of events from before, of which nobody is told."""


class Indexing:
    """See the module."""

    def __init__(self, database: Database, commits: CommitQueue, clock: Clock) -> None:
        self._database = database
        self._commits = commits
        self._clock = clock
        self._new = 0
        self._some = asyncio.Event()
        self._many = asyncio.Event()

    def happened(self, _room_nid: int, _first: int, events: Collection[Appended]) -> None:
        """There are new events."""
        self._new += len(events)
        self._some.set()
        if self._new >= AT_ONCE:
            self._many.set()

    async def run(self) -> None:
        """Move words when there are many, or some for a while, until cancelled."""
        while True:
            self._new = 0
            self._some.clear()
            self._many.clear()
            while await self.move() == AT_ONCE:
                pass
            await self._within(LOOK_SECONDS, self._some)
            await self._within(WITHIN_SECONDS, self._many)

    async def _within(self, seconds: float, happened: asyncio.Event) -> None:
        timer = self._clock.call_later(seconds, happened.set)
        try:
            await happened.wait()
        finally:
            timer.cancel()

    async def move(self) -> int:
        """Move the oldest words that wait; how many they were."""
        rows = await store.waiting_words(self._database, AT_ONCE)
        if rows:
            try:
                await self._commits.commit(store.moved(rows))
            except (Missed, Conflict):
                # Some were redacted, or another worker was here: what is left is looked at again.
                return AT_ONCE
        return len(rows)
