"""`appservice`: bridges and bots that are application services."""

import os
from pathlib import Path
from urllib.parse import quote

import click
import msgspec

from homeserver.cli.commands import config_option, json_option
from homeserver.cli.connection import administration
from homeserver.config import Config

PATH = "/_homeserver/admin/v1/appservices"


@click.group()
def appservice() -> None:
    """Application services: bridges and bots."""


@appservice.command("list")
@config_option
@json_option
def list_services(path: Path, as_json: bool) -> None:
    """Show every application service and how far behind it is."""
    with administration(Config.load(path, os.environ)) as server:
        found = server.request("GET", PATH)["appservices"]
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    if not found:
        click.echo("There are no application services.")
    for one in found:
        state = f"fails: {one['error']}" if one["error"] else "well"
        click.echo(
            f"{one['id']}: {one['user_id']} at {one['url'] or 'no address'}, {state}, "
            f"{one['behind']} positions behind, {one['users']} users in {one['rooms']} rooms"
        )


@appservice.command()
@config_option
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def add(path: Path, file: Path, as_json: bool) -> None:
    """Add the application service of a registration FILE, or give it its new registration."""
    text = file.read_text(encoding="utf-8")
    with administration(Config.load(path, os.environ)) as server:
        added = server.request("POST", PATH, {"registration": text})
    if as_json:
        click.echo(msgspec.json.encode(added))
    else:
        click.echo(f"Added {added['id']}, which acts as {added['user_id']}.")


@appservice.command()
@config_option
@click.argument("service_id", metavar="ID")
def remove(path: Path, service_id: str) -> None:
    """Forget an application service; its users and rooms stay."""
    with administration(Config.load(path, os.environ)) as server:
        server.request("DELETE", _path(service_id))
    click.echo(f"Removed {service_id}.")


@appservice.command()
@config_option
@click.argument("service_id", metavar="ID")
def ping(path: Path, service_id: str) -> None:
    """Ask an application service whether it answers; what waits for it is sent then."""
    with administration(Config.load(path, os.environ)) as server:
        answered = server.request("POST", _path(service_id) + "/ping", {})
    click.echo(f"{service_id} has answered in {answered['duration_ms']} ms.")


@appservice.command()
@config_option
@click.argument("service_id", metavar="ID")
@click.option(
    "--positions",
    type=click.IntRange(1),
    required=True,
    help="How far back in the stream to begin; each event, receipt and so on is one position.",
)
def replay(path: Path, service_id: str, positions: int) -> None:
    """Send an application service once more what happened lately."""
    with administration(Config.load(path, os.environ)) as server:
        server.request("POST", _path(service_id) + "/replay", {"positions": positions})
    click.echo(f"{service_id} is sent the last {positions} positions again.")


def _path(service_id: str) -> str:
    return f"{PATH}/{quote(service_id, safe='')}"
