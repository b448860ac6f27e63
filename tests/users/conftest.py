"""A commit queue over a fresh database, with a clock that stands still."""

from collections.abc import AsyncIterator

import pytest

from homeserver.runtime.clock import FakeClock
from homeserver.streams.commit import CommitQueue
from storage.engine import Database


class NoMetrics:
    """Nobody counts."""

    def committed(self, items: int, seconds: float) -> None: ...


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def commits(database: Database, clock: FakeClock) -> AsyncIterator[CommitQueue]:
    await database.start_timeline()
    queue = CommitQueue(database, clock, NoMetrics(), lambda pos: None, lambda pos: None)
    queue.start()
    yield queue
    await queue.close()
