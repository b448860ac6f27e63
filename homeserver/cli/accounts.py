"""`user list`, `show`, `passwd`, `deactivate` and `devices`.

Owns how accounts are shown and what is asked before they are changed. Everything goes through the
administration API, whether the server runs or not (`connection`).
"""

import os
import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import click
import msgspec

from homeserver.cli.commands import config_option, json_option
from homeserver.cli.connection import administration
from homeserver.config import Config
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.ids import is_user_id

_USERS = "/_synapse/admin/v2/users"
_PAGE = 500
_MARKS = {"admin": "administrator", "is_guest": "guest"}
_STANDINGS = ("deactivated", "suspended", "locked")

name_argument = click.argument("name")


@click.command("list")
@config_option
@click.option("--name", default="", help="Only names that contain this.")
@click.option("--admins", is_flag=True, help="Only administrators.")
@click.option("--deactivated", is_flag=True, help="Only accounts that were closed.")
@json_option
def list_users(path: Path, name: str, admins: bool, deactivated: bool, as_json: bool) -> None:
    """List the accounts of the server."""
    config = Config.load(path, os.environ)
    query: dict[str, object] = {"limit": _PAGE, "name": name}
    if admins:
        query["admins"] = "true"
    if deactivated:
        query["deactivated"] = "true"
    users: list[JsonObject] = []
    with administration(config) as server:
        page = server.request("GET", _USERS, query=query)
        users += page["users"]
        while "next_token" in page:
            page = server.request("GET", _USERS, query={**query, "from": page["next_token"]})
            users += page["users"]
    if as_json:
        click.echo(msgspec.json.encode(users))
        return
    for one in users:
        click.echo(_line(one))
    click.echo(f"{len(users)} account{'' if len(users) == 1 else 's'}", err=True)


@click.command()
@config_option
@name_argument
@json_option
def show(path: Path, name: str, as_json: bool) -> None:
    """Show the account NAME and its devices."""
    config = Config.load(path, os.environ)
    with administration(config) as server:
        where = _path(config, name)
        found = server.request("GET", where)
        devices = server.request("GET", f"{where}/devices")["devices"]
    if as_json:
        click.echo(msgspec.json.encode({**found, "devices": devices}))
        return
    click.echo(_line(found))
    if found.get("displayname"):
        click.echo(f"  called {found['displayname']}")
    for device in devices:
        click.echo(_device(device))


@click.command()
@config_option
@name_argument
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--generate", is_flag=True, help="Make up a password and print it.")
@click.option("--log-out", is_flag=True, help="Log all of the user's devices out.")
@json_option
def passwd(
    path: Path, name: str, password_stdin: bool, generate: bool, log_out: bool, as_json: bool
) -> None:
    """Give the account NAME another password; its devices stay logged in unless told otherwise."""
    config = Config.load(path, os.environ)
    if generate:
        password = secrets.token_urlsafe(15)
    elif password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    user_id = _user_id(config, name)
    body: JsonObject = {"new_password": password, "logout_devices": log_out}
    with administration(config) as server:
        server.request("POST", f"/_synapse/admin/v1/reset_password/{quote(user_id)}", body)
    if as_json:
        made = {"password": password} if generate else {}
        click.echo(msgspec.json.encode({"user_id": user_id, "logged_out": log_out, **made}))
        return
    click.echo(f"The password of {user_id} was changed.")
    if generate:
        click.echo(f"Its password: {password}")


@click.command()
@config_option
@name_argument
@click.option("--erase", is_flag=True, help="The user wants to be forgotten: hide the messages.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def deactivate(path: Path, name: str, erase: bool, yes: bool, as_json: bool) -> None:
    """Close the account NAME for ever; the name stays taken."""
    config = Config.load(path, os.environ)
    user_id = _user_id(config, name)
    if not yes:
        click.confirm(f"Close {user_id} for ever? This can't be undone", abort=True)
    with administration(config) as server:
        server.request("GET", _path(config, name))
        where = f"/_synapse/admin/v1/deactivate/{quote(user_id)}"
        server.request("POST", where, {"erase": erase})
    if as_json:
        click.echo(msgspec.json.encode({"user_id": user_id, "deactivated": True, "erased": erase}))
        return
    click.echo(f"{user_id} is closed; the rooms are being left.")


@click.command()
@config_option
@name_argument
@click.option("--log-out", multiple=True, metavar="DEVICE", help="Log this device out; repeatable.")
@json_option
def devices(path: Path, name: str, log_out: tuple[str, ...], as_json: bool) -> None:
    """List the devices of the account NAME, after having logged some out."""
    config = Config.load(path, os.environ)
    with administration(config) as server:
        where = _path(config, name)
        if log_out:
            server.request("POST", f"{where}/delete_devices", {"devices": list(log_out)})
        found = server.request("GET", f"{where}/devices")["devices"]
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    for device in found:
        click.echo(_device(device))


def _user_id(config: Config, name: str) -> str:
    """The user id of a name given as `ada`, `@ada` or `@ada:here`."""
    user_id = name if ":" in name else f"@{name.removeprefix('@')}:{config.server.name}"
    if not is_user_id(user_id):
        raise click.ClickException(f"{name!r} is no user's name.")
    return user_id


def _path(config: Config, name: str) -> str:
    return f"{_USERS}/{quote(_user_id(config, name))}"


def _line(user: JsonObject) -> str:
    marks = [word for key, word in _MARKS.items() if user.get(key)]
    marks += [key for key in _STANDINGS if user.get(key)]
    since = datetime.fromtimestamp(user["creation_ts"] / 1000, UTC).date().isoformat()
    return f"{user['name']}  since {since}" + (f"  {', '.join(marks)}" if marks else "")


def _device(device: JsonObject) -> str:
    line = f"  {device['device_id']}"
    if device.get("display_name"):
        line += f"  {device['display_name']}"
    if device.get("last_seen_ts") is not None:
        seen = datetime.fromtimestamp(device["last_seen_ts"] / 1000, UTC)
        line += f"  seen {seen:%Y-%m-%d %H:%M} from {device.get('last_seen_ip')}"
    return line
