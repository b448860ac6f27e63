"""`run`, `check` and `version`: what is done with a server that is set up."""

import asyncio
import os
import platform
import sys
from importlib.metadata import version as version_of
from pathlib import Path

import click
import msgspec

from homeserver.cli.commands import config_option, json_option
from homeserver.config import Config


@click.command()
@config_option
def run(path: Path) -> None:
    """Serve until told to stop (SIGTERM or Ctrl-C)."""
    config = Config.load(path, os.environ)
    from homeserver.app import run as serve

    serve(config, lambda: Config.load(path, os.environ))


@click.command()
@config_option
@json_option
def check(path: Path, as_json: bool) -> None:
    """Derive the derived tables again from the events and report every difference.

    The embedded database must not be in use; nothing is changed.
    """
    config = Config.load(path, os.environ)
    differences = asyncio.run(_differences(config))
    if as_json:
        click.echo(msgspec.json.encode({"differences": differences}))
        sys.exit(1 if differences else 0)
    for difference in differences:
        click.echo(difference)
    if differences:
        raise click.ClickException(f"{len(differences)} differences were found.")
    click.echo("No differences: all derived tables agree with the events.")


async def _differences(config: Config) -> list[str]:
    from homeserver.app import database_settings
    from storage.check import differences
    from storage.engine import open_database

    database = await open_database(database_settings(config))
    try:
        return await differences(database)
    finally:
        await database.close()


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Say which version this is, and of Python."""
    if as_json:
        facts = {"version": version_of("homeserver"), "python": platform.python_version()}
        click.echo(msgspec.json.encode(facts))
        return
    click.echo(f"homeserver {version_of('homeserver')} (Python {platform.python_version()})")
