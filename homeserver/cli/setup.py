"""`init`: from nothing to a server that can be run.

Owns the new configuration file, the data directory and the secret for making accounts. It never
overwrites a file, and asks at most three questions.
"""

import os
import secrets
from pathlib import Path

import click

from homeserver.cli.commands import config_option
from homeserver.cli.user import add_user
from homeserver.config import Config, default_file
from homeserver.matrix.ids import is_new_localpart, is_server_name

SECRET_FILE = "registration_secret"

NAME_IS_FOR_EVER = """\
The name of the server is the part after the colon in every user's address: @you:NAME.
It is for ever: it can't be changed once the server has users or rooms. People usually take their
own domain (example.org), also when the server itself runs on a host below it."""


@click.command()
@config_option
@click.option("--name", help="The server's name, such as example.org. It is for ever.")
@click.option("--admin", help="The administrator's user name: the first account.")
@click.option(
    "--registration",
    type=click.Choice(["open", "token", "closed"]),
    help="Who may make an account: everybody, whoever has a token, nobody.",
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the data goes.")
@click.option("--base-url", help="The address at which clients reach the server.")
@click.option("--yes", is_flag=True, help="Ask nothing; what was not given gets its default.")
def init(
    path: Path,
    name: str | None,
    admin: str | None,
    registration: str | None,
    data_dir: Path | None,
    base_url: str | None,
    yes: bool,
) -> None:
    """Write a configuration and make the data directory and the first account."""
    if path.exists():
        raise click.ClickException(f"{path} exists already; it was left as it is.")
    if name is None and not yes:
        click.echo(NAME_IS_FOR_EVER)
        name = click.prompt("Name of the server", type=str).strip().lower()
    name = name or "localhost"
    if not is_server_name(name):
        raise click.ClickException(f"{name!r} can't be the name of a server.")
    _warn_about(name)
    if admin is None and not yes:
        admin = click.prompt("Administrator's user name (empty: later)", default="", type=str)
    if admin and not is_new_localpart(admin):
        raise click.ClickException("User names have the characters a-z, 0-9 and ._=-/+ only.")
    if registration is None and not yes:
        choice = click.Choice(["open", "token", "closed"])
        registration = click.prompt("Who may make accounts", type=choice, default="closed")
    data_dir = data_dir or path.parent / "data"
    base_url = base_url or ("http://localhost:8008" if name == "localhost" else f"https://{name}")
    config = _write(path, name, registration or "closed", data_dir, base_url)
    click.echo(f"The configuration is in {path}, the data goes to {config.server.data_dir}.")
    if admin:
        password = None
        if not yes:
            password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
        add_user(config, admin, password, admin=True)
    click.echo(f"Start it with:  homeserver run -c {path}")
    if not admin:
        click.echo("Make the first account, the administrator, with:")
        click.echo(f"  homeserver user create -c {path} --admin NAME")


def _warn_about(name: str) -> None:
    first, dot, rest = name.partition(".")
    if dot and "." in rest and first in {"matrix", "synapse", "chat", "homeserver", "www"}:
        click.echo(
            f"Note: users will be called @you:{name}. If that should be @you:{rest}, "
            f"the name is {rest}.",
            err=True,
        )


def _write(path: Path, name: str, mode: str, data_dir: Path, base_url: str) -> Config:
    """Make the data directory, the secret and the file, in this order; then read it back."""
    folder = path.absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    data_dir = data_dir.absolute()
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = data_dir / SECRET_FILE
    if not secret.exists():
        with open(secret, "x", encoding="utf-8", opener=_private) as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    text = default_file(
        name, mode, base_url, _relative(secret, folder), _relative(data_dir, folder)
    )
    with open(path, "x", encoding="utf-8") as file:
        file.write(text)
    return Config.load(path, os.environ)


def _relative(path: Path, folder: Path) -> str:
    """The path as it stands in the file: relative where the folder can be moved as a whole."""
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)
