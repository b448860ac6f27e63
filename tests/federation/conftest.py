"""The fixtures: one certificate authority for all tests, one internet for each."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from homeserver.runtime.clock import FakeClock
from storage.engine import DatabaseSettings, open_database
from tests.federation.internet import Internet, internet


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority that no system trusts."""
    return trustme.CA()


@pytest.fixture
def clock() -> FakeClock:
    """Starts at the real time: certificates are judged by that."""
    return FakeClock()


@pytest.fixture
async def net(authority: trustme.CA, clock: FakeClock, tmp_path: Path) -> AsyncIterator[Internet]:
    """An internet of its own for each test; the database is SQLite."""
    database = await open_database(DatabaseSettings(path=tmp_path / "test.db", durable=False))
    async with internet(authority, tmp_path, database, clock) as made:
        yield made
    await database.close()
