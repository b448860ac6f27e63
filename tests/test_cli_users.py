"""`homeserver user ...` says and does the same whether the server runs or not."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from storage.engine import DatabaseSettings, open_database
from tests.databases import PostgresServer
from tests.test_cli_run import command, folder, running

__all__ = ["folder"]


@pytest.fixture(params=["running", "stopped"])
def place(request: pytest.FixtureRequest, folder: Path) -> Iterator[Path]:
    """A server with the accounts admin and bob."""
    for name in ("admin", "bob"):
        assert command(folder, "user", "create", name, "--generate").returncode == 0
    with running(folder) if request.param == "running" else nullcontext():
        yield folder


def done(folder: Path, *arguments: str, given: str = "") -> str:
    result = command(folder, *arguments, given=given)
    assert result.returncode == 0, result.stderr
    return result.stdout


def told(folder: Path, *arguments: str, given: str = "") -> Any:
    return json.loads(done(folder, *arguments, "--json", given=given))


def refused(folder: Path, *arguments: str) -> str:
    result = command(folder, *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_accounts_are_listed_and_shown(place: Path) -> None:
    users = told(place, "user", "list")
    assert [user["name"] for user in users] == ["@admin:example.org", "@bob:example.org"]
    lines = done(place, "user", "list", "--admins").splitlines()
    assert [re.sub(r"\d{4}-\d\d-\d\d", "DAY", line) for line in lines] == [
        "@admin:example.org  since DAY  administrator"
    ]
    assert told(place, "user", "show", "bob")["devices"] == []
    assert "@bob:example.org" in done(place, "user", "show", "@bob:example.org")
    assert "User not found" in refused(place, "user", "show", "nobody")
    assert "no user's name" in refused(place, "user", "show", "@x:")


def test_a_password_is_changed_and_an_account_closed(place: Path) -> None:
    given = told(place, "user", "passwd", "bob", "--generate")
    assert len(given["password"]) >= 20
    assert not given["logged_out"]
    done(place, "user", "passwd", "bob", "--password-stdin", given="another one\n")
    assert "must not be empty" in refused(place, "user", "passwd", "bob", "--password-stdin")
    assert command(place, "user", "deactivate", "bob", given="n\n").returncode == 1
    assert told(place, "user", "list", "--deactivated") == []
    assert told(place, "user", "deactivate", "bob", "--yes")["deactivated"]
    assert [one["name"] for one in told(place, "user", "list", "--deactivated")] == [
        "@bob:example.org"
    ]
    assert "stays closed" in refused(place, "user", "passwd", "bob", "--generate")
    assert "User not found" in refused(place, "user", "deactivate", "nobody", "--yes")


def test_devices_are_listed_and_logged_out(folder: Path) -> None:
    command(folder, "user", "create", "bob", "--password-stdin", given="secret\n")
    with running(folder) as server:
        server.log_in("bob", "secret")
        server.log_in("bob", "secret")
        first, second = (device["device_id"] for device in told(folder, "user", "devices", "bob"))
        assert first in done(folder, "user", "devices", "bob")
        assert "seen" in done(folder, "user", "show", "bob") or second
    left = told(folder, "user", "devices", "bob", "--log-out", first)
    assert [device["device_id"] for device in left] == [second]


def test_a_token_that_can_not_be_read_is_said(folder: Path) -> None:
    command(folder, "user", "create", "bob", "--generate")
    with running(folder) as server:
        token = folder / "data" / "admin.token"
        content = token.read_text()
        token.unlink()
        assert "has not written" in refused(folder, "user", "list")
        token.write_text("something else\n")
        assert "does not know the token" in refused(folder, "user", "list")
        token.write_text(content)
        assert len(told(folder, "user", "list")) == 1
        server.process.terminate()
        server.process.wait(20)
        assert not token.exists()


async def test_a_server_elsewhere_keeps_its_postgresql(
    folder: Path, postgres: PostgresServer
) -> None:
    dsn = postgres.new_database()
    name = dsn.rpartition("=")[2]
    url = f"postgresql://postgres@/{name}?host={postgres.folder}"
    database = await open_database(DatabaseSettings(dsn=dsn, durable=False))
    await database.start_timeline()
    for arguments in (("user", "list"), ("user", "create", "bob", "--generate")):
        result = await asyncio.to_thread(command, folder, *arguments, HOMESERVER_DATABASE_URL=url)
        assert "can't be reached from here has the database open" in result.stderr
    await database.reserve("event", 1)
    await database.close()
    result = await asyncio.to_thread(
        command, folder, "user", "list", "--json", HOMESERVER_DATABASE_URL=url
    )
    assert result.stdout == "[]\n"
    postgres.drop(dsn)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_a_script_and_words(folder: Path, shell: str) -> None:
    script = done(folder, "completion", shell)
    assert "_HOMESERVER_COMPLETE" in script
    words = subprocess.run(
        [sys.executable, "-m", "homeserver"],
        env={
            **os.environ,
            "_HOMESERVER_COMPLETE": f"{shell}_complete",
            "COMP_WORDS": "homeserver user de",
            "COMP_CWORD": "de" if shell == "fish" else "2",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert "deactivate" in words.stdout
    assert "devices" in words.stdout
    assert "list" not in words.stdout.split()


def test_programs_get_json(folder: Path) -> None:
    assert told(folder, "version")["python"].startswith("3.")
    assert told(folder, "config", "check")["server_name"] == "example.org"
    shown = told(folder, "config", "show", "--origin")
    assert shown["server"]["name"] == {"value": "example.org", "origin": "file"}
    assert shown["registration"]["shared_secret"]["value"] == "***"
    assert told(folder, "config", "show")["limits"]["max_request_bytes"] == 1_048_576
    assert told(folder, "user", "create", "bob", "--generate")["user_id"] == "@bob:example.org"
    assert told(folder, "check") == {"differences": []}


def test_what_costs_most_is_shown(folder: Path) -> None:
    assert "does not run" in refused(folder, "top")
    with running(folder):
        told(folder, "user", "list")
        found = told(folder, "top")
        assert [row["name"] for row in found["endpoints"]] == ["GET /_synapse/admin/v2/users"]
        assert "GET /_synapse/admin/v2/users" in done(folder, "top", "--limit", "1")
