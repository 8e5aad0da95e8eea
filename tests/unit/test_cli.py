"""The command line: what it lists, what it refuses, and how it ends."""

from __future__ import annotations

import importlib

import click
import pytest
from click.testing import CliRunner

import daemon.cli as module
from daemon import __version__
from daemon.cli import cli, main
from daemon.domain.errors import ConfigError, DependencyAway, LeaseLost, RedisAway, RedisFull, StoreAway


@pytest.mark.parametrize("name", cli.list_commands(click.Context(cli)))
def test_every_command_of_the_list_is_there_and_says_what_it_does(name: str) -> None:
    """The register names modules that exist."""
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_an_unknown_command_is_a_usage_error() -> None:
    """Exit 2, with the name."""
    result = CliRunner().invoke(cli, ["relays"])
    assert (result.exit_code, "relays" in result.output) == (2, True)


def test_queues_alone_is_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--queues a,b` is `run --queues a,b`; nothing at all is a usage error with the help."""
    seen: list[str] = []
    run = importlib.import_module("daemon.cli.run")
    stand_in = click.Command("run", callback=lambda queues: seen.extend([queues]), params=[click.Option(["--queues"])])
    monkeypatch.setattr(run, "command", stand_in)
    assert CliRunner().invoke(cli, ["--queues", "a,b"]).exit_code == 0
    assert CliRunner().invoke(cli, ["run", "--queues", "c"]).exit_code == 0
    assert seen == ["a,b", "c"]
    nothing = CliRunner().invoke(cli, [])
    assert (nothing.exit_code, "Usage:" in nothing.output) == (2, True)


def test_queues_before_another_command_is_refused() -> None:
    """It would look as if it did something."""
    result = CliRunner().invoke(cli, ["--queues", "a", "config"])
    assert result.exit_code == 2
    assert "--queues belongs to `run`" in result.output


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError(["REDIS_URL: wrong", "LEASE: too short"]), 78, "configuration: LEASE: too short"),
        (RedisAway("no answer"), 75, "away: no answer"),
        (StoreAway("no answer"), 75, "away: no answer"),
        (DependencyAway("no answer"), 75, "away: no answer"),
        (RedisFull("out of memory"), 75, "away: out of memory"),
        (LeaseLost("gone"), 1, "error: gone"),
    ],
)
def test_a_refused_start_is_one_line_a_mistake_and_an_exit_code(
    error: Exception, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """78: systemd does not restart; 75: it does. No traceback for what an operator can mend."""

    def refuse(**_: object) -> None:
        raise error

    monkeypatch.setattr(module, "cli", refuse)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == code
    assert line in capsys.readouterr().err.splitlines()


def test_a_bug_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes out with its traceback."""

    def break_(**_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "cli", break_)
    with pytest.raises(ZeroDivisionError):
        main()


@pytest.mark.parametrize(("asked", "meant"), [("taks", " Did you mean tasks?"), ("qqqq", "")])
def test_a_misspelt_command_is_answered_with_the_one_that_was_meant(asked: str, meant: str) -> None:
    found = CliRunner().invoke(cli, [asked])
    assert found.exit_code == 2
    assert f"No such command '{asked}'.{meant}\n" in found.output


def test_the_version_is_that_of_the_code() -> None:
    """Also where no package is installed: below /opt/qstreamd, in the image, in a checkout."""
    found = CliRunner().invoke(cli, ["--version"])
    assert (found.exit_code, found.output) == (0, f"qstreamd, version {__version__}\n")


@pytest.mark.parametrize("order", ["pause", "resume"])
def test_the_kill_switch_needs_no_noun(order: str) -> None:
    """Nobody looks for it in a group at 3 a.m.; it is the same command, not a copy."""
    group = cli.get_command(click.Context(cli), "queues")
    assert isinstance(group, click.Group)
    assert cli.get_command(click.Context(cli), order) is group.commands[order]


def test_a_command_that_is_not_installed_says_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line; a command of another room is unknown."""
    monkeypatch.setattr("daemon.cli.has", lambda _: False)
    found = CliRunner().invoke(cli, ["demo"])
    assert (found.exit_code, "pip install 'qstreamd[demo]'" in found.output) == (2, True)
    assert found.output.count("\n") == 1
    assert "No such command 'gateway'" in CliRunner().invoke(cli, ["gateway"]).output
