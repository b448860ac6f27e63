"""The group of commands, loaded by name.

Owns the table of commands and the turning of expected failures into sentences. A failure that is
not expected is a bug and shows its traceback.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import click

from homeserver.errors import MatrixError
from homeserver.options import ConfigError

COMMANDS = {
    "init": "homeserver.cli.setup:init",
    "run": "homeserver.cli.operate:run",
    "check": "homeserver.cli.operate:check",
    "version": "homeserver.cli.operate:version",
    "config": "homeserver.cli.show:config",
    "user": "homeserver.cli.user:user",
    "key": "homeserver.cli.key:key",
    "appservice": "homeserver.cli.appservice:appservice",
    "e2ee": "homeserver.cli.e2ee:e2ee",
    "federation": "homeserver.cli.federation:federation",
    "room": "homeserver.cli.room:room",
    "media": "homeserver.cli.media:media",
    "notice": "homeserver.cli.notice:notice",
    "push": "homeserver.cli.push:push",
    "restored": "homeserver.cli.restored:restored",
    "db": "homeserver.cli.database:db",
    "top": "homeserver.cli.top:top",
    "completion": "homeserver.cli.completion:completion",
}

config_option = click.option(
    "--config",
    "-c",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("homeserver.toml"),
    envvar="HOMESERVER_CONFIG",
    show_default=True,
    help="The configuration file.",
)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


class Commands(click.Group):
    """Commands that are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ConfigError, MatrixError, OSError) as error:
            raise click.ClickException(_sentence(error)) from None
        except Exception as error:
            if _is_storage_error(error):
                raise click.ClickException(str(error)) from None
            raise


def _sentence(error: Exception) -> str:
    if isinstance(error, MatrixError):
        return error.message
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)


def _is_storage_error(error: Exception) -> bool:
    from storage.engine import StorageError

    return isinstance(error, StorageError)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done; 1 it could not be done, or `check` found differences; 2 used "
    "wrongly. Every option of the configuration: docs/reference/config.md.",
)
def cli() -> None:
    """A Matrix homeserver. Begin with `homeserver init`, then `homeserver run`."""
