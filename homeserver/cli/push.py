"""`push`: how it goes with the pushers of users, and trying them."""

import os
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import click
import msgspec

from homeserver.cli.commands import config_option, json_option
from homeserver.cli.connection import Administration, administration
from homeserver.config import Config
from homeserver.matrix.canonical import JsonObject

PATH = "/_homeserver/admin/v1/push"


@click.group()
def push() -> None:
    """Notifications of users, by gateways, push services and mail."""


@push.command("list")
@config_option
@click.argument("user", required=False)
@json_option
def list_pushers(path: Path, user: str | None, as_json: bool) -> None:
    """Show the pushers of USER, or of all: last success, last error, and what waits."""
    config = Config.load(path, os.environ)
    with administration(config) as ours:
        found = _pushers(ours, PATH if user is None else _path(config, user))
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    if not found:
        click.echo("There are no pushers.")
    for one in found:
        click.echo(_line(one))


@push.command()
@config_option
@click.argument("user")
@click.option("--pusher", "pushkey", help="Try the pusher with this key only.")
@json_option
def test(path: Path, user: str, pushkey: str | None, as_json: bool) -> None:
    """Send USER a notification that says it is a test; exits with 1 when one doesn't go through."""
    config = Config.load(path, os.environ)
    with administration(config) as ours:
        body: JsonObject = {"pushkey": pushkey} if pushkey is not None else {}
        results = ours.request("POST", _path(config, user) + "/test", body)["results"]
    if as_json:
        click.echo(msgspec.json.encode(results))
    else:
        for one in results:
            how = "taken" if one["error"] is None else f"failed: {one['error']}"
            click.echo(f"{one['app_id']} {one['pushkey']}: {how}")
    if not results:
        raise click.ClickException(f"{user} has no such pusher.")
    if any(one["error"] is not None for one in results):
        raise SystemExit(1)


def _pushers(ours: Administration, path: str) -> list[JsonObject]:
    """All pages of a list."""
    found: list[JsonObject] = []
    after: JsonObject | None = {}
    while after is not None:
        page = ours.request("GET", path, query=after)
        found += page["pushers"]
        after = page.get("next")
    return found


def _path(config: Config, user: str) -> str:
    user_id = user if user.startswith("@") else f"@{user}:{config.server.name}"
    return f"{PATH}/{quote(user_id, safe='')}"


def _line(one: JsonObject) -> str:
    what = "mail" if one["kind"] == "email" else one["app_id"]
    name = f" ({one['device_display_name']})" if one["device_display_name"] else ""
    parts = [f"{one['user_id']}: {what}{name} at {one['to']}"]
    if not one["enabled"]:
        parts.append("switched off")
    if not one["activated"]:
        parts.append("not activated by its app yet")
    if one["last_success_ts"] is None:
        parts.append("nothing was taken yet")
    else:
        parts.append(f"last taken {_when(one['last_success_ts'])}")
    if one["last_error"] is not None:
        since = "fails" if one["failing"] else "last failed"
        parts.append(f"{since}: {one['last_error']} ({_when(one['last_error_ts'])})")
    if one["waiting"]:
        due = f" until {_when(one['due_ts'])}" if one["due_ts"] is not None else ""
        parts.append(f"{one['waiting']} wait{due}")
    return ", ".join(parts)


def _when(ts: int) -> str:
    return datetime.fromtimestamp(ts / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
