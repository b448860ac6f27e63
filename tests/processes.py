"""Homeservers as processes: what the client, crash and speed tests start, kill and measure.

Owns the life of one server process: a configuration written into a folder, a free port, waiting
until `/_matrix/client/versions` answers, an orderly stop, `kill -9`, and starting again on the same
data. `OurServer` is this project, `SynapseServer` the package matrix-synapse in an environment of
its own (see `synapse_env`), which is what scenarios are validated against and compared with. Both
are set up alike: durable commits, no rate limits, cheap password hashes, presence off, warnings
only in the log. It does not create databases (see `databases`) and knows nothing of what is done
with a server.
"""

import contextlib
import http.client
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import psutil
from psycopg.conninfo import conninfo_to_dict
from signedjson.key import generate_signing_key, write_signing_keys

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0
STOP_SECONDS = 30.0


_GIVEN_OUT: set[int] = set()


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on at this moment.

    It is below those that systems give away by themselves, and each process of tests gives out its
    own share of these, none twice: nobody gets it while its server is down.
    """
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    own = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = random.randrange(10_000 + own, 32_000, count)
        if port in _GIVEN_OUT:
            continue
        _GIVEN_OUT.add(port)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def postgresql_url(dsn: str) -> str:
    """The same database as a URL, from libpq's form of keywords and values."""
    parts = conninfo_to_dict(dsn)
    return f"postgresql://{parts['user']}@/{parts['dbname']}?host={quote(str(parts['host']), '')}"


def process_tree(pid: int) -> list[psutil.Process]:
    """The process and all its living descendants; empty when it is gone."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(pid: int) -> float:
    """CPU time, user and system, of a process tree, with that of children that have ended.

    Living processes are read from their CPU clock in nanoseconds where the system has one (Linux);
    ended children only count in clock ticks (10 ms).
    """
    total = 0.0
    for process in process_tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):
            times = process.cpu_times()
            own = times.user + times.system
            if sys.platform == "linux":
                with contextlib.suppress(OSError):
                    own = time.clock_gettime((~process.pid << 3) | 2)
            total += own + times.children_user + times.children_system
    return total


def resident_bytes(pid: int) -> int:
    """Resident memory of a process tree, pages shared among its processes counted for each."""
    total = 0
    for process in process_tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def _environment() -> dict[str, str]:
    """Ours, without what would configure the server, slow its start, or what only tests read."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HOMESERVER_") and name != "PYTHONDONTWRITEBYTECODE"
    }


class DidNotStart(Exception):
    """The process ended, or did not answer in time; carries the end of its log."""


class Server(ABC):
    """One homeserver process on a folder of its own; `database` is `sqlite:PATH` or a URL.

    The object outlives the process: `stop` or `kill`, then `start` again on the same data and port.
    """

    kind: str

    def __init__(
        self,
        folder: Path,
        database: str | None = None,
        name: str = "localhost",
        *,
        presence: bool = False,
        cheap_passwords: bool = True,
        limits: bool = False,
        services: Sequence[Path] = (),
    ) -> None:
        """`services` are registrations of application services, in JSON."""
        self.folder = folder
        self.name = name
        self.presence = presence
        self.cheap_passwords = cheap_passwords
        self.limits = limits
        self.services = services
        self.database = database or f"sqlite:{folder / 'homeserver.db'}"
        self.port = free_port()
        self.ports = [self.port]
        """What is listened on, the listener of clients first; subclasses add theirs."""
        self.shared_secret = secrets.token_hex(16)
        self.log = folder / "output.log"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.configure()

    @abstractmethod
    def configure(self) -> None:
        """Write the configuration into the folder."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """What to execute."""

    @property
    def url(self) -> str:
        """Where clients reach it, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The number of the running process."""
        if self._process is None:
            raise RuntimeError("the server does not run")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self, seconds: float = START_SECONDS) -> None:
        """Start the process and return when it answers on `ports`; DidNotStart if it doesn't."""
        if self.running:
            raise RuntimeError("the server runs already")
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT if self.kind == "ours" else self.folder,
                env=_environment(),
                start_new_session=True,
            )
        limit = time.monotonic() + seconds
        while not self._answers():
            if self._process.poll() is not None:
                status = self._process.returncode
                self._process = None
                raise DidNotStart(f"{self.kind} ended with status {status}:\n{self.log_end()}")
            if time.monotonic() > limit:
                self.kill()
                raise DidNotStart(f"{self.kind} did not answer in {seconds} s:\n{self.log_end()}")
            time.sleep(0.005)

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """End the process in order (SIGTERM) and return its exit status; kill it if it lingers."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self._process = None
        return status

    def kill(self) -> None:
        """End the process and its children at once (SIGKILL): no buffer is written."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def cpu(self) -> float:
        """CPU seconds of the process tree since it started."""
        return cpu_seconds(self.pid)

    def resident(self) -> int:
        """Resident bytes of the process tree."""
        return resident_bytes(self.pid)

    def log_end(self, lines: int = 60) -> str:
        """The last lines of what the process has written, for the message of a failed test."""
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _answers(self) -> bool:
        # Listeners open one after the other.
        for port in self.ports[1:]:
            with socket.socket() as trying:
                if trying.connect_ex(("127.0.0.1", port)) != 0:
                    return False
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/_matrix/client/versions")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class OurServer(Server):
    """This project's server, run from its source tree with the Python that runs the tests."""

    kind = "ours"
    wrapper: Sequence[str] = ()

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.folder / "homeserver.toml"

    def configure(self) -> None:
        """Write a configuration for tests: cheap passwords, open registration, no limits."""
        self.config.write_text(
            "\n".join(
                [
                    "[server]",
                    f"name = {json.dumps(self.name)}",
                    f"data_dir = {json.dumps(str(self.folder))}",
                    "[[listeners]]",
                    'address = "127.0.0.1"',
                    f"port = {self.port}",
                    "[database]",
                    f"url = {json.dumps(self.database)}",
                    "[registration]",
                    'mode = "open"',
                    f"shared_secret = {json.dumps(self.shared_secret)}",
                    "[passwords]",
                    f'cost = "{"cheap" if self.cheap_passwords else "normal"}"',
                    "[presence]",
                    f"enabled = {json.dumps(self.presence)}",
                    "[limits]",
                    f"enabled = {json.dumps(self.limits)}",
                    "[appservices]",
                    f"files = {json.dumps([str(path) for path in self.services])}",
                    "[logging]",
                    'level = "warning"',
                    "",
                ]
            )
        )

    def command(self) -> Sequence[str]:
        """The `run` command, behind a wrapper (a profiler) if one was given."""
        return [sys.executable, *self.wrapper, "-m", "homeserver", "run", "-c", str(self.config)]

    def check(self) -> subprocess.CompletedProcess[str]:
        """Run `homeserver check` on the data; to be used while the server is stopped."""
        return self.cli("check")

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command with the server's configuration."""
        return subprocess.run(
            [sys.executable, "-m", "homeserver", *arguments, "-c", str(self.config)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=_environment(),
            check=False,
        )


class SynapseServer(Server):
    """Synapse in one process, from the environment that `synapse_env` finds or makes.

    Its SQLite database runs with journal_mode WAL (Synapse sets it) and synchronous FULL (the
    default of Python's SQLite, which Synapse leaves alone): the same durability as ours.
    """

    kind = "synapse"

    def configure(self) -> None:
        """Write homeserver.yaml (as JSON, which is YAML), the logging configuration and a key."""
        with (self.folder / "signing.key").open("w") as stream:
            write_signing_keys(stream, [generate_signing_key("1")])
        handler = {"class": "logging.StreamHandler"}
        (self.folder / "log.yaml").write_text(
            json.dumps(
                {
                    "version": 1,
                    "handlers": {"console": handler},
                    "root": {"level": "WARNING", "handlers": ["console"]},
                }
            )
        )
        (self.folder / "homeserver.yaml").write_text(json.dumps(self._settings(), indent=1))

    def command(self) -> Sequence[str]:
        """The main process alone, without workers."""
        from tests.synapse_env import synapse_python

        config = str(self.folder / "homeserver.yaml")
        return [str(synapse_python()), "-m", "synapse.app.homeserver", "-c", config]

    def _settings(self) -> dict[str, object]:
        unlimited = {"per_second": 1_000_000, "burst_count": 1_000_000}
        return {
            "server_name": self.name,
            "listeners": [
                {
                    "port": self.port,
                    "bind_addresses": ["127.0.0.1"],
                    "type": "http",
                    "resources": [{"names": ["client"]}],
                }
            ],
            "database": self._database(),
            "log_config": str(self.folder / "log.yaml"),
            "pid_file": str(self.folder / "synapse.pid"),
            "media_store_path": str(self.folder / "media"),
            "signing_key_path": str(self.folder / "signing.key"),
            "registration_shared_secret": self.shared_secret,
            "enable_registration": True,
            "enable_registration_without_verification": True,
            "bcrypt_rounds": 4 if self.cheap_passwords else 12,
            "report_stats": False,
            "trusted_key_servers": [],
            "suppress_key_server_warning": True,
            "presence": {"enabled": self.presence},
            "app_service_config_files": [str(path) for path in self.services],
            "rc_message": unlimited,
            "rc_registration": unlimited,
            "rc_login": dict.fromkeys(("address", "account", "failed_attempts"), unlimited),
            "rc_joins": dict.fromkeys(("local", "remote"), unlimited),
            "rc_joins_per_room": unlimited,
            "rc_invites": dict.fromkeys(("per_room", "per_user", "per_issuer"), unlimited),
            "rc_room_creation": unlimited,
            "rc_admin_redaction": unlimited,
        }

    def _database(self) -> dict[str, object]:
        if self.database.startswith("sqlite:"):
            path = self.database.removeprefix("sqlite:")
            return {"name": "sqlite3", "args": {"database": path}}
        return {
            "name": "psycopg2",
            "args": {"dsn": self.database, "cp_min": 5, "cp_max": 10},
            "allow_unsafe_locale": True,
        }


def server_class(kind: str) -> type[Server]:
    """The class of server by its name, `ours` or `synapse`."""
    return {"ours": OurServer, "synapse": SynapseServer}[kind]


def judged() -> type[Server]:
    """The server that tests judge: ours, or the one named by HOMESERVER_TEST_SERVER.

    Running the scenarios against Synapse shows that they hold for a server known to be right.
    """
    return server_class(os.environ.get("HOMESERVER_TEST_SERVER", "ours"))


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """Start the server, give it, and end it whatever happens; on failure its log is added."""
    server.start()
    try:
        yield server
    except BaseException as error:
        error.add_note(f"--- end of the log of {server.kind} ---\n{server.log_end()}")
        server.kill()
        raise
    if server.running:
        server.stop()
