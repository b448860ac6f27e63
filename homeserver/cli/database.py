"""`db`: what an operator does with the database itself.

Owns `db rekey`, `db export` and `db size`. The first needs a server that is stopped; the others run
beside it. What is done is `storage`'s; here stand the questions and the answers.
"""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from homeserver.cli.commands import config_option, json_option
from homeserver.config import Config

if TYPE_CHECKING:
    from storage.size import Sizes

_ROOMS = 20


@click.group()
def db() -> None:
    """The database: its key, copies of it, its size."""


@db.command()
@config_option
@click.option(
    "--new-key-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Encrypt with the key in this file; it is made when it does not exist.",
)
@click.option("--decrypt", is_flag=True, help="Leave the database without encryption.")
def rekey(path: Path, new_key_file: Path | None, decrypt: bool) -> None:
    """Encrypt the embedded database, change its key, or decrypt it; the server must be stopped.

    Until the last moment the old file is untouched; whenever this is interrupted, the database is
    the old one or the new one. It needs as much free space as the database has bytes.
    """
    if (new_key_file is None) != decrypt:
        raise click.UsageError("Give --new-key-file FILE, or --decrypt.")
    config = Config.load(path, os.environ)
    file = _file(config, "PostgreSQL is encrypted by its own means or by those of its disk")
    from storage import sqlite_copies as copies

    made = new_key_file is not None and not new_key_file.exists()
    if new_key_file is not None and made:
        copies.new_key_file(new_key_file)
    try:
        copies.rekey(file, config.database.key_file, new_key_file)
    except BaseException:
        if new_key_file is not None and made:
            new_key_file.unlink(missing_ok=True)
        raise
    if new_key_file is None:
        click.echo(f"{file} is not encrypted any more. Now remove database.key_file from {path}.")
        return
    click.echo(f"{file} is encrypted with the key in {new_key_file}.")
    if new_key_file.absolute() != (config.database.key_file or Path()).absolute():
        click.echo(
            f'Now set in {path}, section [database]:  key_file = "{new_key_file.absolute()}"'
        )
    click.echo("Keep a copy of the key elsewhere: without it the data is lost.")


@db.command()
@config_option
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--key-file",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="Encrypt the copy with the key in this file instead of the database's own.",
)
@click.option("--decrypt", is_flag=True, help="Make a copy that is not encrypted.")
@json_option
def export(path: Path, target: Path, key_file: Path | None, decrypt: bool, as_json: bool) -> None:
    """Copy the embedded database into the new file TARGET, while the server runs or not.

    The copy is of one moment and whole, and can be used in place of the database.
    """
    if key_file is not None and decrypt:
        raise click.UsageError("--key-file and --decrypt exclude each other.")
    config = Config.load(path, os.environ)
    file = _file(config, "use pg_dump, which makes a consistent copy of PostgreSQL")
    from storage import sqlite_copies as copies

    own = config.database.key_file
    target_key = None if decrypt else key_file or own
    size = copies.export(file, own, target, target_key)
    if as_json:
        facts = {"path": str(target), "bytes": size, "encrypted": target_key is not None}
        click.echo(msgspec.json.encode(facts))
        return
    how = "not encrypted" if target_key is None else f"encrypted with the key in {target_key}"
    click.echo(f"{target} has the whole database, {_bytes(size)}, {how}.")


@db.command()
@config_option
@json_option
@click.option("--rooms", default=_ROOMS, show_default=True, help="How many rooms to list.")
def size(path: Path, as_json: bool, rooms: int) -> None:
    """Say what takes how much space, by kind of data and by room; the server may run."""
    config = Config.load(path, os.environ)
    found = asyncio.run(_sizes(config, rooms))
    if as_json:
        click.echo(msgspec.json.encode(_facts(found)))
        return
    click.echo(f"{_bytes(found.total):>12}  the whole database")
    for kind, number in found.kinds.items():
        click.echo(f"{_bytes(number):>12}  {kind}")
    click.echo("\nThe largest rooms:")
    for room in found.rooms:
        most = ", ".join(f"{kind} {_bytes(n)}" for kind, n in list(room.kinds.items())[:3])
        name = f" {room.name!r}" if room.name else ""
        click.echo(f"{_bytes(room.total):>12}  {room.room_id}{name}: {most}")
    rest = sum(found.elsewhere.values())
    click.echo(f"{_bytes(rest):>12}  other rooms, and what belongs to no room")


async def _sizes(config: Config, rooms: int) -> "Sizes":
    from homeserver.app import database_settings
    from storage.beside import log_bytes, read_beside
    from storage.size import sizes

    settings = database_settings(config)
    async with read_beside(settings) as reader:
        beside = log_bytes(settings.path) if settings.path is not None else 0
        return await sizes(reader, log_bytes=beside, most_rooms=rooms)


def _facts(found: "Sizes") -> dict[str, object]:
    return {
        "total": found.total,
        "kinds": found.kinds,
        "tables": [
            {"table": one.table, "kind": one.kind, "bytes": one.own, "index_bytes": one.indexes}
            for one in found.tables
        ],
        "rooms": [
            {"room_id": room.room_id, "name": room.name, "total": room.total, "kinds": room.kinds}
            for room in found.rooms
        ],
        "elsewhere": found.elsewhere,
    }


def _file(config: Config, otherwise: str) -> Path:
    """The embedded database's file; ClickException with `otherwise` on PostgreSQL."""
    if config.database.sqlite_path is None:
        raise click.ClickException(f"This is for the embedded database; {otherwise}.")
    return config.database.sqlite_path


def _bytes(number: int) -> str:
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
