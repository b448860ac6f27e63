"""`e2ee`: why somebody may be unable to decrypt."""

import os
from pathlib import Path
from urllib.parse import quote

import click
import msgspec

from homeserver.cli.commands import config_option, json_option
from homeserver.cli.connection import administration
from homeserver.config import Config
from homeserver.matrix.canonical import JsonObject

PATH = "/_homeserver/admin/v1/e2ee"


@click.group()
def e2ee() -> None:
    """End-to-end encryption."""


@e2ee.command()
@config_option
@click.argument("user", required=False)
@json_option
def status(path: Path, user: str | None, as_json: bool) -> None:
    """Show how it stands with the keys of all devices, or of those of USER (@name:server)."""
    with administration(Config.load(path, os.environ)) as ours:
        where = PATH if user is None else f"{PATH}/{quote(user, safe='')}"
        found = ours.request("GET", where)
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    for line in _all(found) if user is None else _one(found):
        click.echo(line)


def _all(found: JsonObject) -> list[str]:
    return [
        f"{found['devices']} devices: {found['without_keys']} without keys",
        f"{found['empty_pools']} devices have keys and no one-time keys",
        f"{found['stale_lists']} lists of other servers' users are stale",
        *(
            f"{one['waiting']} messages wait for {one['user_id']} {one['device_id']}"
            for one in found["inboxes"]
        ),
        *(
            f"{one['waiting_messages']} messages to devices and {one['waiting_lists']} changes of"
            f" keys wait for {one['server']}"
            for one in found["servers"]
        ),
    ]


def _one(found: JsonObject) -> list[str]:
    if "stale" in found:
        state = "stale" if found["stale"] else "fresh"
        names = ", ".join(one["device_id"] for one in found["devices"]) or "no devices"
        return [f"{found['user_id']}: the copy is {state}: {names}"]
    return [
        f"{one['device_id']}: {'keys' if one['keys'] else 'no keys'},"
        f" {one['one_time_keys']} one-time keys, {one['waiting']} messages wait"
        for one in found["devices"]
    ] or [f"{found['user_id']} has no devices"]
