"""The server as a process: started, used and stopped by its command."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

CHEAP = {
    "HOMESERVER_PASSWORDS_COST": "cheap",
    "HOMESERVER_DATABASE_SYNCHRONOUS": "normal",
    "HOMESERVER_LISTENERS": '[{socket = "data/hs.sock", apis = ["admin", "metrics"]}, {port = 0}]',
    "HOMESERVER_LOGGING_FORMAT": "json",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    done = command(tmp_path, "init", "--yes", "--name", "example.org")
    assert done.returncode == 0, done.stderr
    return tmp_path


def environment() -> dict[str, str]:
    outer = {key: value for key, value in os.environ.items() if not key.startswith("HOMESERVER_")}
    return {**outer, **CHEAP}


def command(
    folder: Path, *arguments: str, given: str = "", **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "homeserver", *arguments],
        cwd=folder,
        env={**environment(), **more},
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Running:
    """A server process and where it listens."""

    def __init__(self, process: subprocess.Popen[str], lines: list[dict[str, Any]]) -> None:
        self.process = process
        self.lines = lines
        message = lines[-1]["message"]
        self.url = "http://" + message.rpartition("http://")[2]

    def get(self, path: str) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def log_in(self, user: str, password: str) -> str:
        """The access token of a new session."""
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user},
            "password": password,
        }
        request = urllib.request.Request(
            self.url + "/_matrix/client/v3/login", json.dumps(body).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            return str(json.load(reply)["access_token"])


@contextmanager
def running(folder: Path) -> Iterator[Running]:
    with subprocess.Popen(
        [sys.executable, "-m", "homeserver", "run"],
        cwd=folder,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            lines: list[dict[str, Any]] = []
            for line in process.stderr:
                lines.append(json.loads(line))
                if "is served on" in line:
                    break
            yield Running(process, lines)
        finally:
            with suppress(ProcessLookupError):
                process.kill()


def test_it_serves_until_it_is_told_to_stop(folder: Path) -> None:
    with running(folder) as server:
        assert server.get("/health/ready") == (200, {"status": "ready"})
        status, versions = server.get("/_matrix/client/versions")
        assert (status, "v1.19" in versions["versions"]) == (200, True)
        assert server.get("/_matrix/client/v3/sync")[0] == 401
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) == 0
    with running(folder) as again:
        assert again.get("/health/ready")[0] == 200


def test_accounts_are_made_while_it_runs_and_while_it_does_not(folder: Path) -> None:
    before = command(folder, "user", "create", "alice", "--password-stdin", given="one\n")
    assert before.stdout == "Made the account @alice:example.org.\n", before.stderr
    with running(folder) as server:
        during = command(folder, "user", "create", "bob", "--password-stdin", given="two\n")
        assert during.stdout == "Made the account @bob:example.org.\n", during.stderr
        taken = command(folder, "user", "create", "alice", "--generate")
        assert (taken.returncode, taken.stderr.count("\n")) == (1, 1)
        assert server.log_in("alice", "one")
        assert server.log_in("bob", "two")


def test_the_database_is_checked_only_while_nobody_uses_it(folder: Path) -> None:
    with running(folder):
        refused = command(folder, "check")
        assert refused.returncode == 1
        assert "stop it first" in refused.stderr
        second = command(folder, "run")
        assert (second.returncode, second.stderr.count("\n")) == (1, 1)
    checked = command(folder, "check")
    assert (checked.returncode, "No differences" in checked.stdout) == (0, True)


def test_it_is_copied_and_measured_while_it_runs(folder: Path) -> None:
    with running(folder):
        assert command(folder, "user", "create", "bob", "--generate").returncode == 0
        done = command(folder, "db", "export", "copy.db")
        assert done.returncode == 0, done.stderr
        sizes = json.loads(command(folder, "db", "size", "--json").stdout)
        assert sum(sizes["kinds"].values()) == sizes["total"]
        assert sizes["kinds"]["write-ahead log"] > 0
        refused = command(folder, "db", "rekey", "--new-key-file", "k")
        assert "is open in another process" in refused.stderr
        assert not (folder / "k").exists()
    (folder / "copy.db").replace(folder / "data" / "homeserver.db")
    with running(folder) as server:
        done = command(folder, "user", "create", "bob", "--generate")
        assert "taken" in done.stderr or "in use" in done.stderr, done.stderr
        assert server.get("/_matrix/client/versions")[0] == 200


def test_a_taken_port_is_one_sentence(folder: Path) -> None:
    with running(folder) as server:
        port = server.url.rpartition(":")[2]
        other = folder / "other"
        other.mkdir()
        command(other, "init", "--yes")
        failed = command(other, "run", HOMESERVER_LISTENERS=f"[{{port = {port}}}]")
    assert failed.returncode == 1
    assert f"can't listen on 127.0.0.1 port {port}" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_waiting_sync_is_answered_when_the_server_stops(folder: Path) -> None:
    command(folder, "user", "create", "alice", "--password-stdin", given="one\n")
    with running(folder) as server, ThreadPoolExecutor(1) as threads:
        path = f"/_matrix/client/v3/sync?access_token={server.log_in('alice', 'one')}"
        since = server.get(path)[1]["next_batch"]
        waiting = threads.submit(server.get, f"{path}&timeout=60000&since={since}")
        while "homeserver_waiting_syncs 1.0" not in _metrics(folder):
            assert not waiting.done()
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        status, answer = waiting.result(30)
        assert (status, answer["next_batch"]) == (200, since)
        assert server.process.wait(15) == 0
        assert time.monotonic() - began < 30


def _metrics(folder: Path) -> str:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with connection.sock:
        connection.sock.connect(str(folder / "data" / "hs.sock"))
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
