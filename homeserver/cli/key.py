"""`key`: the server's signing keys."""

import os
from pathlib import Path

import click

from homeserver.cli.commands import config_option
from homeserver.config import Config


@click.group()
def key() -> None:
    """Show and change the keys that this server signs with."""


@key.command()
@config_option
def show(path: Path) -> None:
    """List the keys of the key file, of which the first one signs, and that for Web Push."""
    from homeserver.matrix.canonical import encode_unpadded
    from homeserver.push import vapid
    from homeserver.runtime import key_file

    for one in key_file.read(_file(path)):
        click.echo(f"{one.key_id} {encode_unpadded(one.public_key)}")
    file = Config.load(path, os.environ).push.vapid_key_file
    if file is not None and file.exists():
        click.echo(f"vapid {vapid.read(file).public}")


@key.command()
@config_option
@click.option(
    "--keep", is_flag=True, help="Go on publishing the keys of before, without signing with them."
)
def rotate(path: Path, keep: bool) -> None:
    """Make a new key to sign with, from the next start of the server on.

    The old key is then published as an old one, so that what it has signed stays valid.
    """
    from homeserver.runtime import key_file

    made = key_file.rotate(_file(path), keep=keep)
    click.echo(f"The server signs with {made.key_id} from its next start on. Restart it now.")


def _file(path: Path) -> Path:
    file = Config.load(path, os.environ).server.signing_key_file
    assert file is not None  # the configuration has filled it in
    return file
