"""Sliding sync is one code on both databases: what differs is tested with the storage."""

from pathlib import Path

import pytest

from storage.engine import DatabaseSettings


@pytest.fixture
def database_settings(tmp_path: Path) -> DatabaseSettings:
    """An empty SQLite database."""
    return DatabaseSettings(path=tmp_path / "test.db", durable=False)
