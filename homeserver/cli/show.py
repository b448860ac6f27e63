"""`config check` and `config show`."""

import os
import sys
from pathlib import Path

import click

from homeserver.cli.commands import config_option
from homeserver.config import SECTIONS, Config, Listener, Terms
from homeserver.options import declared


@click.group()
def config() -> None:
    """Look at the configuration."""


@config.command()
@config_option
def check(path: Path) -> None:
    """Read the configuration and say whether it can be used."""
    loaded = Config.load(path, os.environ)
    click.echo(f"{path} is fine: the server of {loaded.server.name}.")


@config.command()
@config_option
@click.option("--origin", is_flag=True, help="Say of each value where it comes from.")
def show(path: Path, origin: bool) -> None:
    """Print every option with its value; secrets are hidden."""
    loaded = Config.load(path, os.environ)
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
    repeated: list[tuple[str, type, tuple[object, ...]]] = [
        ("listeners", Listener, loaded.listeners),
        ("terms", Terms, loaded.terms),
    ]
    for name, shape, tables in repeated:
        for table in tables:
            lines.append(f"[[{name}]]")
            lines += [
                f"{one.name} = {_toml(getattr(table, one.name))}" for one in declared(name, shape)
            ]
            lines.append("")
    _print("\n".join(lines).rstrip())


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
