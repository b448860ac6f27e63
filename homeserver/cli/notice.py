"""`notice`: what the server tells its users."""

import os
import secrets
from pathlib import Path
from urllib.parse import quote

import click
import msgspec

from homeserver.cli.commands import config_option, json_option
from homeserver.cli.connection import administration
from homeserver.config import Config
from homeserver.matrix.canonical import JsonObject

SEND = "/_synapse/admin/v1/send_server_notice"
PINNED = "/_homeserver/admin/v1/notices"


@click.group()
def notice() -> None:
    """Notices of the server to its users, in a room of their own."""


@notice.command()
@config_option
@click.argument("user")
@click.argument("text")
@click.option("--pin", is_flag=True, help="The notice holds until it is unpinned.")
@click.option(
    "--type", "type_", help="Send an m.server_notice of this type, in place of a plain text."
)
@json_option
def send(path: Path, user: str, text: str, pin: bool, type_: str | None, as_json: bool) -> None:
    """Tell USER the TEXT; prints the room and the event."""
    config = Config.load(path, os.environ)
    content: JsonObject = {"msgtype": "m.text", "body": text}
    if type_ is not None:
        content |= {"msgtype": "m.server_notice", "server_notice_type": type_}
    body: JsonObject = {"user_id": _user_id(config, user), "content": content, "pinned": pin}
    with administration(config) as server:
        told = server.request("PUT", f"{SEND}/{secrets.token_hex(16)}", body)
    if as_json:
        click.echo(msgspec.json.encode(told))
    else:
        click.echo(f"{told['room_id']} {told['event_id']}")


@notice.command()
@config_option
@click.argument("user")
@click.argument("event")
def unpin(path: Path, user: str, event: str) -> None:
    """End the pinned notice EVENT of USER; the message stays."""
    config = Config.load(path, os.environ)
    with administration(config) as server:
        place = "/".join(quote(part, safe="") for part in (_user_id(config, user), event))
        server.request("DELETE", f"{PINNED}/{place}")
    click.echo(f"{event} is pinned no more.")


def _user_id(config: Config, user: str) -> str:
    return user if user.startswith("@") else f"@{user}:{config.server.name}"
