"""Speaking to the server, or to one that is started for the occasion.

Owns `administration`: the administration API of the running server, reached with the token that it
has written into its data directory; where no server runs, one is started without public listeners,
on a socket in a private folder, and stopped afterwards. So each command is written once.
"""

import asyncio
import http.client
import logging
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import click
import msgspec

from homeserver.config import Config, Listener
from homeserver.matrix.canonical import JsonObject
from homeserver.users.operator import FILE

if TYPE_CHECKING:
    from homeserver.app import App

SECONDS = 30


class Administration:
    """The administration API at one listener, for whoever holds the token."""

    def __init__(self, listener: Listener, token: str) -> None:
        self._listener = listener
        self._token = token

    def request(
        self,
        method: str,
        path: str,
        body: JsonObject | None = None,
        query: Mapping[str, object] | None = None,
    ) -> JsonObject:
        """The answer's JSON; ClickException with the server's sentence when it refuses."""
        if query:
            path += "?" + urlencode({key: str(value) for key, value in query.items()})
        status, answer = ask(self._listener, method, path, body, self._token)
        if status == 401:
            raise click.ClickException(
                f"The server at {where(self._listener)} does not know the token in {FILE}: it is "
                "another server, or runs with another data directory."
            )
        if status not in (200, 201):
            raise click.ClickException(str(answer.get("error", f"status {status}")))
        return answer


@contextmanager
def administration(config: Config) -> Iterator[Administration]:
    """The server's administration API; raises ClickException, StorageError or OSError."""
    listener = running(config)
    if listener is not None:
        yield Administration(listener, _token(config))
        return
    with _started(config) as own:
        yield Administration(own, _token(config))


def running(config: Config) -> Listener | None:
    """The listener of a running server that carries the api admin, None when nothing answers."""
    answering = None
    for listener in config.listeners:
        connection = connect(listener)
        try:
            connection.connect()
        except OSError:
            continue
        finally:
            connection.close()
        answering = listener
        if "admin" in listener.apis:
            return listener
    if answering is not None:
        raise click.ClickException(
            "The server is running, but none of its listeners carries the api admin; "
            "stop it first, or add admin to a listener."
        )
    return None


def ask(
    listener: Listener, method: str, path: str, body: JsonObject | None, token: str | None = None
) -> tuple[int, JsonObject]:
    """Status and JSON of one request; ClickException when what answers is no homeserver."""
    connection = connect(listener)
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    try:
        content = msgspec.json.encode(body) if body is not None else None
        connection.request(method, path, content, headers)
        response = connection.getresponse()
        return response.status, msgspec.json.decode(response.read(), type=dict)
    except (http.client.HTTPException, msgspec.MsgspecError):
        raise click.ClickException("What answers at the server's address is not it.") from None
    finally:
        connection.close()


def where(listener: Listener) -> str:
    """The place of a listener, for people."""
    return str(listener.socket) if listener.socket else f"{listener.address}:{listener.port}"


def connect(listener: Listener) -> http.client.HTTPConnection:
    """A connection to a listener of this machine, not opened yet."""
    if listener.socket is not None:
        return _SocketConnection(listener.socket)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listener.address, listener.address)
    if listener.tls_certificate is None:
        return http.client.HTTPConnection(host, listener.port, timeout=SECONDS)
    # The certificate names the public host, not the address that is used from this machine.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, listener.port, timeout=SECONDS, context=context)


class _SocketConnection(http.client.HTTPConnection):
    """A connection to a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(SECONDS)
        self.sock.connect(str(self._path))


def _token(config: Config) -> str:
    path = config.server.data_dir / FILE
    try:
        return path.read_text(encoding="ascii").strip()
    except PermissionError:
        raise click.ClickException(
            f"{path} may be read by the server's user only; run this command as that user."
        ) from None
    except FileNotFoundError:
        raise click.ClickException(
            f"The server that answers has not written {path}: it is another server, or runs with "
            "another data directory."
        ) from None


@contextmanager
def _started(config: Config) -> Iterator[Listener]:
    """A server of our own for the time being; the database must not be in use."""
    from homeserver.app import App, database_settings
    from homeserver.runtime.clock import SystemClock
    from storage.beside import refuse_if_used

    asyncio.run(refuse_if_used(database_settings(config)))
    # Nobody waits for a slow step here, and what a command says is for people.
    logging.getLogger("homeserver.runtime.watch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="homeserver-") as folder:
        listener = Listener(socket=Path(folder) / "admin", apis=("admin",))
        quiet = replace(config, listeners=(listener,), metrics=replace(config.metrics, port=0))
        app = App(quiet, SystemClock())
        ready: Future[None] = Future()
        ended = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(_serve(app, ready, ended)))
        thread.start()
        try:
            ready.result()
            yield listener
        finally:
            ended.set()
            thread.join()


async def _serve(app: "App", ready: "Future[None]", ended: threading.Event) -> None:
    try:
        await app.start()
    except BaseException as error:  # belongs to whoever waits for the start
        ready.set_exception(error)
        return
    ready.set_result(None)
    await asyncio.to_thread(ended.wait)
    await app.stop()
