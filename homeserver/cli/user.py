"""`user create`: accounts from the command line, whether the server runs or not.

A running server is asked through its endpoint for registration by shared secret; otherwise the
account is made in the database, by the same services that the server uses.
"""

import asyncio
import hashlib
import hmac
import http.client
import os
import secrets
import socket
import ssl
import sys
from dataclasses import replace
from pathlib import Path

import click
import msgspec

from homeserver.cli.commands import config_option
from homeserver.config import Config, Listener
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.ids import is_new_localpart

REGISTER = "/_synapse/admin/v1/register"
SECONDS = 30


@click.group()
def user() -> None:
    """Accounts."""


@user.command()
@config_option
@click.argument("name")
@click.option("--admin", is_flag=True, help="The account may administer the server.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--generate", is_flag=True, help="Make up a password and print it.")
def create(path: Path, name: str, admin: bool, password_stdin: bool, generate: bool) -> None:
    """Make the account NAME; the first one of a server is always an administrator."""
    config = Config.load(path, os.environ)
    localpart = name.removeprefix("@").removesuffix(f":{config.server.name}")
    if not is_new_localpart(localpart):
        raise click.ClickException("User names have the characters a-z, 0-9 and ._=-/+ only.")
    if password_stdin:
        password: str | None = sys.stdin.readline().rstrip("\r\n")
    elif generate:
        password = None
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    add_user(config, localpart, password, admin)


def add_user(config: Config, localpart: str, password: str | None, admin: bool) -> None:
    """Make an account and say so; without a password one is made up and printed.

    Raises MatrixError or ClickException with the reason when it can't be made.
    """
    generated = password is None
    password = password if password is not None else secrets.token_urlsafe(15)
    if not password:
        raise click.ClickException("The password must not be empty.")
    listener = _running(config)
    if listener is not None:
        user_id = _ask_server(config, listener, localpart, password, admin)
    else:
        user_id = asyncio.run(_make_directly(config, localpart, password, admin))
    click.echo(f"Made the account {user_id}.")
    if generated:
        click.echo(f"Its password: {password}")


async def _make_directly(config: Config, localpart: str, password: str, admin: bool) -> str:
    from homeserver.app import App
    from homeserver.runtime.clock import SystemClock
    from homeserver.users.accounts import NewAccount

    quiet = replace(config, listeners=(), metrics=replace(config.metrics, port=0))
    app = App(quiet, SystemClock())
    await app.start()
    try:
        new = NewAccount(localpart, password, admin=admin, displayname=localpart)
        return (await app.services.accounts.create(new)).user_id
    finally:
        await app.stop()


def _running(config: Config) -> Listener | None:
    """The listener of a running server that can make accounts, None when nothing answers."""
    answering = None
    for listener in config.listeners:
        connection = _connect(listener)
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


def _ask_server(
    config: Config, listener: Listener, localpart: str, password: str, admin: bool
) -> str:
    secret = config.registration.shared_secret
    if not secret:
        raise click.ClickException(
            "The server is running, and making accounts on it needs registration.shared_secret; "
            "set it, or stop the server first."
        )
    nonce = _request(listener, "GET", None)["nonce"]
    role = "admin" if admin else "notadmin"
    text = f"{nonce}\0{localpart}\0{password}\0{role}".encode()
    mac = hmac.new(secret.encode(), text, hashlib.sha1).hexdigest()
    body = {
        "nonce": nonce,
        "username": localpart,
        "displayname": localpart,
        "password": password,
        "admin": admin,
        "mac": mac,
    }
    return str(_request(listener, "POST", body)["user_id"])


def _request(listener: Listener, method: str, body: JsonObject | None) -> JsonObject:
    connection = _connect(listener)
    try:
        content = msgspec.json.encode(body) if body is not None else None
        connection.request(method, REGISTER, content, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = msgspec.json.decode(response.read(), type=dict)
    except (http.client.HTTPException, msgspec.MsgspecError):
        raise click.ClickException("What answers at the server's address is not it.") from None
    finally:
        connection.close()
    if response.status == 403:
        raise click.ClickException(
            f"The server at {_where(listener)} refuses registration.shared_secret: it runs with "
            "another configuration, or is another server."
        )
    if response.status != 200:
        raise click.ClickException(str(answer.get("error", f"status {response.status}")))
    return answer


def _where(listener: Listener) -> str:
    return str(listener.socket) if listener.socket else f"{listener.address}:{listener.port}"


class _SocketConnection(http.client.HTTPConnection):
    """A connection to a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(SECONDS)
        self.sock.connect(str(self._path))


def _connect(listener: Listener) -> http.client.HTTPConnection:
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
