"""`python -m daemon completion bash|zsh|fish`: what makes a shell complete our commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from daemon.cli import COMPLETE_VARIABLE, cli


@click.command(
    "completion", epilog="Example:  qstreamd completion bash > ~/.local/share/bash-completion/completions/qstreamd"
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a script that completes `qstreamd`, the command that an installed package brings."""
    completion = get_completion_class(shell)
    assert completion is not None  # the choice above holds what click knows
    click.echo(completion(cli, {}, "qstreamd", COMPLETE_VARIABLE).source())
