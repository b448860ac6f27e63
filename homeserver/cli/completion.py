"""`completion`: what a shell needs to complete commands and options."""

import click
from click.shell_completion import get_completion_class

from homeserver.cli.commands import cli

_VARIABLE = "_HOMESERVER_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    bash: homeserver completion bash > /etc/bash_completion.d/homeserver
    zsh:  homeserver completion zsh > "${fpath[1]}/_homeserver"
    fish: homeserver completion fish > ~/.config/fish/completions/homeserver.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    script = found(cli, {}, "homeserver", _VARIABLE)
    click.echo(script.source_template % script.source_vars())
