"""`room`: whether a room is what its events say, and making it so."""

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

PATH = "/_homeserver/admin/v1/rooms"


@click.group()
def room() -> None:
    """Rooms."""


@room.command()
@config_option
@click.argument("room_id")
@click.option("--offline", is_flag=True, help="Ask no other server.")
@json_option
def check(path: Path, room_id: str, offline: bool, as_json: bool) -> None:
    """Compare ROOM_ID's state with its events and with other servers; list what was lost.

    Exit code 1: something in our tables is not what the events say.
    """
    with administration(Config.load(path, os.environ)) as ours:
        found = ours.request(
            "GET", _path(room_id, "check"), query={"ask_servers": str(not offline).lower()}
        )
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        _show(found)
    if found["differences"]:
        raise SystemExit(1)


@room.command()
@config_option
@click.argument("room_id")
@click.option("--apply", is_flag=True, help="Do it; without this it is only said what would be.")
@json_option
def repair(path: Path, room_id: str, apply: bool, as_json: bool) -> None:
    """Derive ROOM_ID's state, memberships and summary from its events once more.

    Clients hear of what changes by their next sync; other servers are told nothing.
    """
    with administration(Config.load(path, os.environ)) as ours:
        found = ours.request("POST", _path(room_id, "repair"), {"apply": apply})
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    if not found["differences"]:
        click.echo("All tables say what the events say; there is nothing to repair.")
        return
    for sentence in found["differences"]:
        click.echo(sentence)
    if found["applied"]:
        click.echo("All of this is repaired.")
    else:
        click.echo("Nothing was changed; add --apply to have this repaired.")


def _show(found: JsonObject) -> None:
    differences, resets = found["differences"], found["resets"]
    if differences:
        click.echo("The tables are not what the events say (`homeserver room repair` mends that):")
        for sentence in differences:
            click.echo(f"  {sentence}")
    else:
        click.echo(
            f"{found['state_events']} state events, {found['ends']} ends:"
            " all tables say what the events say."
        )
    if resets:
        click.echo("Lost by state resolution, though no event says so (the newest first):")
    for one in resets:
        when = datetime.fromtimestamp(one["ts"] / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        click.echo(
            f"  {when}: {one['sentence']}, at the arrival of {one['event_id']};"
            f" {one['lost_event_id']} counted before"
        )
    if not resets:
        click.echo("No join, ban or power was seen to be lost by state resolution.")
    if not found["joined"]:
        click.echo("No user of ours is in the room: other servers are not asked.")
    for one in found["servers"]:
        click.echo(one["sentence"])


def _path(room_id: str, what: str) -> str:
    return f"{PATH}/{quote(room_id, safe='')}/{what}"
