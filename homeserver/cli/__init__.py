"""The command `homeserver`.

Owns the list of commands and how they fail: with one sentence on standard error and an exit code.
Each command's module is imported when it is used, so that `run` starts fast.
Exit codes: 0 done; 1 it could not be done, or `check` found differences; 2 used wrongly.
"""

from homeserver.cli.commands import cli


def main() -> None:
    """The entry point of the installed command."""
    cli(prog_name="homeserver")
