"""`restored`: to be said after an older copy of the database was put back."""

import os
from pathlib import Path

import click

from homeserver.cli.commands import config_option
from homeserver.cli.connection import administration
from homeserver.config import Config


@click.command()
@config_option
def restored(path: Path) -> None:
    """Say that an older copy of the database was put back.

    One-time keys that it holds may have been given out in the time that was lost; all are dropped,
    so that clients upload new ones and no message is encrypted with a key that was used.
    """
    with administration(Config.load(path, os.environ)) as server:
        server.request("POST", "/_homeserver/admin/v1/restored", {})
    click.echo("All one-time keys were dropped; clients upload new ones as they come back.")
