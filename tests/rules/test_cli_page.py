"""docs/guides/cli.md names every command and every code of `tasks explain`, and its commands are taken as printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final

import click
import pytest

from daemon.admin import explain
from daemon.cli import cli

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "guides" / "cli.md").read_text("utf-8")


def test_every_command_is_on_the_page() -> None:
    """In the first table, and no other."""
    context = click.Context(cli)
    named = re.findall(r"`([\w-]+)`", "".join(re.findall(r"^\| (`.*?) \|", PAGE.split("## ")[0], re.MULTILINE)))
    assert sorted(named) == sorted(cli.list_commands(context))


def test_every_code_of_explain_is_on_the_page() -> None:
    """As `explain` builds them, and as tasks are parked."""
    source = Path(explain.__file__).read_text("utf-8")
    codes = set(re.findall(r'Explanation\(\s*"([A-Z_]+)"', source)) | set(
        re.findall(r'^        "([A-Z_]+)": \(', source, re.MULTILINE)
    )
    table = PAGE.split("The first word is for programs:")[1].split("## ")[0]
    missing = {code for code in codes if f"`{code}`" not in table}
    assert missing == set()


COMMANDS: Final = [
    line.split(" #")[0].split(" > ")[0]
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_line_is_one_that_we_take(line: str) -> None:
    """Parsed to the last option; nothing is run."""
    words = shlex.split(line)
    words = words[3:] if words[:3] == ["python", "-m", "daemon"] else words[1:]
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        name, command, words = command.resolve_command(context, words)  # type: ignore[assignment]
        assert command is not None, name
        context = click.Context(command, parent=context)
    command.parse_args(context, words)
