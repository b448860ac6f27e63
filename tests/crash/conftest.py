"""A server on each kind of database, and a way to look into that database."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import apsw
import psycopg
import pytest

from bench.client import Client
from tests.databases import PostgresServer
from tests.processes import Server, judged, postgresql_url, running

Rows = list[tuple[int, ...]]


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """An empty database, None for a file of the server's own; the test runs once on each kind."""
    if request.param == "sqlite":
        return None
    postgres: PostgresServer = request.getfixturevalue("postgres")
    return postgresql_url(postgres.blank_database())


@pytest.fixture
def server(database_url: str | None, tmp_path: Path) -> Iterator[Server]:
    """A running server on an empty database."""
    with running(judged()(tmp_path / "server", database_url)) as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Callable[[], Client]]:
    """Makes clients without an account; their connections are closed at the end."""
    made: list[Client] = []

    def make() -> Client:
        made.append(Client("127.0.0.1", server.port))
        return made[-1]

    yield make
    for client in made:
        client.close()
    await asyncio.sleep(0)


@pytest.fixture
def look(server: Server) -> Callable[[str], Rows]:
    """Read the server's database behind its back."""

    def rows(sql: str) -> Rows:
        if server.database.startswith("sqlite:"):
            connection = apsw.Connection(server.database.removeprefix("sqlite:"))
            found: Rows = list(connection.execute(sql))
            connection.close()
            return found
        with psycopg.connect(server.database) as postgresql:
            return postgresql.execute(sql.encode()).fetchall()

    return rows
