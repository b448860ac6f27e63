"""`config check` and `config show`."""

import os
import sys
from pathlib import Path

import click
import msgspec

from homeserver.cli.commands import config_option, json_option
from homeserver.config import SECTIONS, Config, Listener, Terms
from homeserver.options import declared


@click.group()
def config() -> None:
    """Look at the configuration."""


@config.command()
@config_option
@json_option
def check(path: Path, as_json: bool) -> None:
    """Read the configuration and say whether it can be used."""
    loaded = Config.load(path, os.environ)
    if as_json:
        click.echo(msgspec.json.encode({"path": str(path), "server_name": loaded.server.name}))
        return
    click.echo(f"{path} is fine: the server of {loaded.server.name}.")


@config.command()
@config_option
@click.option("--origin", is_flag=True, help="Say of each value where it comes from.")
@json_option
def show(path: Path, origin: bool, as_json: bool) -> None:
    """Print every option with its value; secrets are hidden."""
    loaded = Config.load(path, os.environ)
    if as_json:
        click.echo(msgspec.json.encode(_facts(loaded, origin)))
        return
    lines = []
    for name, shape in SECTIONS.items():
        lines.append(f"[{name}]")
        section = getattr(loaded, name)
        for one in declared(name, shape):
            value = getattr(section, one.name)
            shown = '"***"' if one.option.secret and value else _toml(value)
            source = f"  # {loaded.origins[one.key]}" if origin else ""
            lines.append(f"{one.name} = {shown}{source}")
        lines.append("")
    for name, shape, tables in _repeated(loaded):
        for table in tables:
            lines.append(f"[[{name}]]")
            lines += [
                f"{one.name} = {_toml(getattr(table, one.name))}" for one in declared(name, shape)
            ]
            lines.append("")
    _print("\n".join(lines).rstrip())


def _repeated(loaded: Config) -> list[tuple[str, type, tuple[object, ...]]]:
    return [("listeners", Listener, loaded.listeners), ("terms", Terms, loaded.terms)]


def _facts(loaded: Config, origin: bool) -> dict[str, object]:
    """Every option as JSON has it; with `origin` each value beside where it comes from."""
    facts: dict[str, object] = {}
    for name, shape in SECTIONS.items():
        section = getattr(loaded, name)
        values: dict[str, object] = {}
        for one in declared(name, shape):
            value = getattr(section, one.name)
            shown = "***" if one.option.secret and value else _plain(value)
            values[one.name] = (
                {"value": shown, "origin": loaded.origins[one.key]} if origin else shown
            )
        facts[name] = values
    for name, shape, tables in _repeated(loaded):
        facts[name] = [
            {one.name: _plain(getattr(table, one.name)) for one in declared(name, shape)}
            for table in tables
        ]
    return facts


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value if value is None or isinstance(value, bool | int) else str(value)


def _print(text: str) -> None:
    """Coloured for people, plain for pipes."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.syntax import Syntax

        Console().print(Syntax(text, "toml", background_color="default"))
    else:
        click.echo(text)


def _toml(value: object) -> str:
    if value is None:
        return '""'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(part) for part in value) + "]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
