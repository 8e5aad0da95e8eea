"""Earlier names of commands: they work as the new ones do, and nothing shows them."""

from __future__ import annotations

from typing import Final

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from daemon.cli import cli

#: what was typed before -> what is shown now
ALIASES: Final = {
    ("providers",): ("models",),
    ("providers", "list"): ("models", "list"),
    ("providers", "close"): ("models", "block"),
    ("providers", "open"): ("models", "unblock"),
    ("models", "close"): ("models", "block"),
    ("sim",): ("loadtest",),
    ("probe",): ("healthcheck",),
    ("contracts",): ("export-contracts",),
}


def found(words: tuple[str, ...]) -> click.Command:
    """The command that these words lead to."""
    command: click.Command = cli
    context = click.Context(cli)
    rest = list(words)
    while rest:
        assert isinstance(command, click.Group)
        _, inner, rest = command.resolve_command(context, rest)
        assert inner is not None, words
        command, context = inner, click.Context(inner, parent=context)
    return command


@pytest.mark.parametrize(("earlier", "now"), ALIASES.items(), ids=" ".join)
def test_an_earlier_name_does_what_the_new_one_does(earlier: tuple[str, ...], now: tuple[str, ...]) -> None:
    """Scripts and units that were written for it go on working, with the same options."""
    old, new = found(earlier), found(now)
    assert old.params == new.params
    if not isinstance(new, click.Group):
        assert old.callback is new.callback is not None


def test_help_shows_the_new_name_only() -> None:
    """In the list of commands, in the usage line of an earlier name, and in a group's list of verbs."""
    shown = CliRunner().invoke(cli, ["--help"]).output.split("Commands:")[1]
    names = {line.split()[0] for line in shown.splitlines() if line.startswith("  ") and line[2:3].strip()}
    assert names >= {"models", "loadtest", "healthcheck", "export-contracts"}
    assert not names & {"providers", "sim", "probe", "contracts"}
    assert (
        CliRunner().invoke(cli, ["sim", "--help"], prog_name="qstreamd").output.startswith("Usage: qstreamd loadtest ")
    )
    verbs = CliRunner().invoke(cli, ["models", "--help"]).output.split("Commands:")[1]
    assert [line.split()[0] for line in verbs.splitlines() if line[2:3].strip()][:3] == ["block", "list", "unblock"]
    assert "--bury" not in CliRunner().invoke(cli, ["consumers", "--help"]).output


@pytest.mark.parametrize(("typed", "offered"), [("pro", []), ("si", []), ("con", ["config", "consumers"])])
def test_completion_offers_the_new_name_only(typed: str, offered: list[str]) -> None:
    """A tab teaches the name that the pages use."""
    items = ShellComplete(cli, {}, "qstreamd", "X").get_completions([], typed)
    assert sorted(item.value for item in items) == offered
    verbs = ShellComplete(cli, {}, "qstreamd", "X").get_completions(["providers"], "")
    assert sorted(item.value for item in verbs) == ["block", "list", "unblock"]
