"""`federation`: how it goes with other servers, and stepping in."""

import os
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import click
import msgspec

from homeserver.cli.commands import config_option, json_option
from homeserver.cli.connection import administration
from homeserver.config import Config
from homeserver.matrix.canonical import JsonObject

PATH = "/_homeserver/admin/v1/federation"


@click.group()
def federation() -> None:
    """Other servers."""


@federation.command()
@config_option
@click.argument("server", required=False)
@click.option("--all", "everyone", is_flag=True, help="Also those with whom all is well.")
@json_option
def status(path: Path, server: str | None, everyone: bool, as_json: bool) -> None:
    """Show how it goes with SERVER, or with all that fail, are blocked, or lack something."""
    with administration(Config.load(path, os.environ)) as ours:
        if server is not None:
            found = [ours.request("GET", _path(server))]
        else:
            found = ours.request("GET", PATH, query={"all": str(everyone).lower()})["servers"]
    if as_json:
        click.echo(msgspec.json.encode(found if server is None else found[0]))
        return
    if not found:
        click.echo("All is well with every other server.")
    for one in found:
        click.echo(_line(one))
        if server is not None:
            places = ", ".join(one["reached_at"]) or "nowhere"
            click.echo(f"  found at {places} ({one['reached_by']})")
            click.echo(f"  {one['waiting_messages']} messages to devices wait for it")
            click.echo(f"  {one['waiting_lists']} changes of devices and keys wait for it")


@federation.command()
@config_option
@click.argument("server")
def retry(path: Path, server: str) -> None:
    """Try SERVER at once, whatever pause it has."""
    with administration(Config.load(path, os.environ)) as ours:
        ours.request("POST", _path(server) + "/retry", {})
    click.echo(f"{server} is tried now; `federation status {server}` tells how it went.")


@federation.command()
@config_option
@click.argument("server")
def block(path: Path, server: str) -> None:
    """Neither ask nor answer SERVER any more; what it misses is kept for later."""
    with administration(Config.load(path, os.environ)) as ours:
        ours.request("POST", _path(server) + "/block", {})
    click.echo(f"{server} is blocked; `federation allow {server}` takes it back.")


@federation.command()
@config_option
@click.argument("server")
def allow(path: Path, server: str) -> None:
    """Speak with SERVER again, and send it what it has missed."""
    with administration(Config.load(path, os.environ)) as ours:
        ours.request("POST", _path(server) + "/allow", {})
    click.echo(f"{server} is spoken with.")


def _path(server: str) -> str:
    return f"{PATH}/{quote(server, safe='')}"


def _line(one: JsonObject) -> str:
    parts = [f"{one['server']}: {one['state']}"]
    if one["last_success_ts"] is None:
        parts.append("has never answered")
    else:
        parts.append(f"last answered {_when(one['last_success_ts'])}")
    if one["failing_since_ts"] is not None:
        parts.append(f"fails since {_when(one['failing_since_ts'])}: {one['error']}")
    if one["retry_ts"] is not None:
        parts.append(f"is tried again {_when(one['retry_ts'])}")
    if one["waiting_events"] or one["behind"]:
        since = f" since {_when(one['waiting_since_ts'])}" if one["waiting_since_ts"] else ""
        more = "+" if one["behind"] and "reached_at" not in one else ""
        parts.append(f"{one['waiting_events']}{more} events wait{since}")
    return ", ".join(parts)


def _when(ts: int) -> str:
    return datetime.fromtimestamp(ts / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
