"""`top`: which rooms, users and endpoints cost most at the moment."""

import os
import time
from pathlib import Path

import click
import msgspec

from homeserver.cli.commands import config_option, json_option
from homeserver.cli.connection import Administration, administration, running
from homeserver.config import Config
from homeserver.matrix.canonical import JsonObject

_COSTS = "/_homeserver/admin/v1/costs"


@click.command()
@config_option
@click.option("--limit", default=10, show_default=True, help="How many of each kind.")
@click.option("--every", type=float, help="Show it again every so many seconds, until Ctrl-C.")
@json_option
def top(path: Path, limit: int, every: float | None, as_json: bool) -> None:
    """Show what costs most: time of the event loop, time of the database, requests.

    Sums of the last minutes, in which five minutes ago counts half.
    """
    config = Config.load(path, os.environ)
    if running(config) is None:
        raise click.ClickException("The server does not run, so nothing costs anything.")
    with administration(config) as server:
        while True:
            found = _ask(server, limit)
            if as_json:
                click.echo(msgspec.json.encode(found))
            else:
                if every is not None:
                    click.clear()
                _print(found)
            if every is None:
                return
            time.sleep(every)


def _ask(server: Administration, limit: int) -> JsonObject:
    return server.request("GET", _COSTS, query={"limit": limit})


def _print(found: JsonObject) -> None:
    for kind in ("rooms", "users", "endpoints"):
        click.echo(f"{'loop ms':>10}{'database ms':>13}{'requests':>10}  {kind}")
        for row in found[kind]:
            loop, database = row["loop_us"] / 1000, row["database_us"] / 1000
            click.echo(f"{loop:10.1f}{database:13.1f}{row['requests']:10}  {row['name']}")
        click.echo()
