"""`user`: accounts from the command line, whether the server runs or not.

`user create` stands here, the other commands in `accounts`. It asks a running server through its
endpoint for registration by shared secret; otherwise the account is made in the database, by the
same services that the server uses.
"""

import asyncio
import hashlib
import hmac
import os
import secrets
import sys
from dataclasses import replace
from pathlib import Path

import click
import msgspec

from homeserver.cli import accounts
from homeserver.cli.commands import config_option, json_option
from homeserver.cli.connection import ask, running, where
from homeserver.config import Config, Listener
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.ids import is_new_localpart

REGISTER = "/_synapse/admin/v1/register"


@click.group()
def user() -> None:
    """Accounts."""


for _command in (
    accounts.list_users,
    accounts.show,
    accounts.passwd,
    accounts.deactivate,
    accounts.devices,
):
    user.add_command(_command)


@user.command()
@config_option
@click.argument("name")
@click.option("--admin", is_flag=True, help="The account may administer the server.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--generate", is_flag=True, help="Make up a password and print it.")
@json_option
def create(
    path: Path, name: str, admin: bool, password_stdin: bool, generate: bool, as_json: bool
) -> None:
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
    add_user(config, localpart, password, admin, as_json=as_json)


def add_user(
    config: Config, localpart: str, password: str | None, admin: bool, *, as_json: bool = False
) -> None:
    """Make an account and say so; without a password one is made up and printed.

    Raises MatrixError or ClickException with the reason when it can't be made.
    """
    generated = password is None
    password = password if password is not None else secrets.token_urlsafe(15)
    if not password:
        raise click.ClickException("The password must not be empty.")
    listener = running(config)
    if listener is not None:
        user_id = _ask_server(config, listener, localpart, password, admin)
    else:
        user_id = asyncio.run(_make_directly(config, localpart, password, admin))
    if as_json:
        made = {"password": password} if generated else {}
        click.echo(msgspec.json.encode({"user_id": user_id, **made}))
        return
    click.echo(f"Made the account {user_id}.")
    if generated:
        click.echo(f"Its password: {password}")


async def _make_directly(config: Config, localpart: str, password: str, admin: bool) -> str:
    from homeserver.app import App, database_settings
    from homeserver.runtime.clock import SystemClock
    from homeserver.users.accounts import NewAccount
    from storage.beside import refuse_if_used

    await refuse_if_used(database_settings(config))
    quiet = replace(config, listeners=(), metrics=replace(config.metrics, port=0))
    app = App(quiet, SystemClock())
    await app.start()
    try:
        new = NewAccount(localpart, password, admin=admin, displayname=localpart)
        return (await app.services.accounts.create(new)).user_id
    finally:
        await app.stop()


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
    status, answer = ask(listener, method, REGISTER, body)
    if status == 403:
        raise click.ClickException(
            f"The server at {where(listener)} refuses registration.shared_secret: it runs with "
            "another configuration, or is another server."
        )
    if status != 200:
        raise click.ClickException(str(answer.get("error", f"status {status}")))
    return answer
