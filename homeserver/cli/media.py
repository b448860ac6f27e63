"""`media`: hiding, blocking, deleting and checking files."""

import os
import time
from pathlib import Path

import click
import msgspec

from homeserver.cli.commands import config_option, json_option
from homeserver.cli.connection import administration
from homeserver.config import Config

PATH = "/_homeserver/admin/v1/media"
DAY_MS = 86_400_000

reason_option = click.option("--reason", default="", help="Why; for yourself.")


@click.group()
def media() -> None:
    """Files. NAME is an mxc:// URI or a content's SHA-256."""


@media.command()
@config_option
@json_option
def usage(path: Path, as_json: bool) -> None:
    """Show how much is kept, who keeps most, and what is hidden or blocked."""
    with administration(Config.load(path, os.environ)) as ours:
        found = ours.request("GET", PATH)
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    own = found["uploaded"]
    most = ", most by" if own["users"] else ""
    click.echo(f"{own['bytes'] / 1e6:.1f} MB in {own['files']} files were uploaded here{most}")
    for one in own["users"]:
        click.echo(f"    {one['user']}: {one['bytes'] / 1e6:.1f} MB in {one['files']} files")
    click.echo(f"{found['cached_bytes'] / 1e6:.1f} MB of other servers' files are kept.")
    for one in found["hidden"]:
        what = "blocked" if one["blocked"] else "hidden"
        click.echo(f"{one['hash']} {what}{': ' if one['reason'] else ''}{one['reason']}")
    for name in found["never_fetched"]:
        click.echo(f"{name} is never fetched")


@media.command()
@config_option
@click.argument("name")
@reason_option
def quarantine(path: Path, name: str, reason: str) -> None:
    """Show what NAME names to nobody, whoever uploads it; the file is kept."""
    with administration(Config.load(path, os.environ)) as ours:
        found = ours.request("POST", f"{PATH}/quarantine", {"name": name, "reason": reason})
    click.echo(f"{found['hash']} is hidden; `media release` takes that back.")


@media.command()
@config_option
@click.argument("name")
@reason_option
def block(path: Path, name: str, reason: str) -> None:
    """Delete what NAME names, under all its names, and don't take it again."""
    with administration(Config.load(path, os.environ)) as ours:
        found = ours.request("POST", f"{PATH}/block", {"name": name, "reason": reason})
    click.echo(f"{found['hash']} is deleted and blocked; `media release` lets it come again.")


@media.command()
@config_option
@click.argument("name")
def release(path: Path, name: str) -> None:
    """Show, or take again, what NAME names."""
    with administration(Config.load(path, os.environ)) as ours:
        ours.request("POST", f"{PATH}/release", {"name": name})
    click.echo(f"{name} is neither hidden nor blocked any more.")


@media.command()
@config_option
@click.argument("uri")
def delete(path: Path, uri: str) -> None:
    """Delete the file that URI names."""
    with administration(Config.load(path, os.environ)) as ours:
        ours.request("POST", f"{PATH}/delete", {"name": uri})
    click.echo(f"{uri} is deleted.")


@media.command()
@config_option
@click.option("--days", default=30, show_default=True, type=click.IntRange(0), help="Unused for.")
def purge(path: Path, days: int) -> None:
    """Drop other servers' files that were not used for some days; they come again when needed."""
    before = int(time.time() * 1000) - days * DAY_MS
    with administration(Config.load(path, os.environ)) as ours:
        found = ours.request("POST", f"{PATH}/purge", {"before_ts": before})
    click.echo(f"{found['deleted']} files were dropped.")


@media.command()
@config_option
@click.option("--to", required=True, type=click.Choice(["disk", "s3"]), help="Where to.")
def move(path: Path, to: str) -> None:
    """Move all files to the disk or to the bucket of [s3], also while the server runs.

    Each is read back and compared before it goes from its old place. What was broken off is begun
    again by the same command.
    """
    files = size = 0
    failed: list[str] = []
    after: str | None = None
    with administration(Config.load(path, os.environ)) as ours:
        while True:
            step = ours.request("POST", f"{PATH}/move", {"to": to, "after": after})
            files, size = files + step["files"], size + step["bytes"]
            failed += step["failed"]
            after = step["after"]
            if after is None:
                break
    click.echo(f"{files} files ({size / 1e6:.1f} MB) were moved.")
    for one in failed:
        click.echo(f"{one} can't be moved: it is missing, or not what it should be.")
    if failed:
        raise SystemExit(1)


@media.command()
@config_option
@json_option
def fsck(path: Path, as_json: bool) -> None:
    """Look for files that are missing, unknown, named by nothing, or that should have gone."""
    with administration(Config.load(path, os.environ)) as ours:
        faults = ours.request("GET", f"{PATH}/faults")["faults"]
    if as_json:
        click.echo(msgspec.json.encode(faults))
    else:
        for fault in faults:
            click.echo(f"{fault['hash']}: {fault['what']}")
        click.echo("All files are as they should be." if not faults else f"{len(faults)} faults.")
    if faults:
        raise SystemExit(1)
