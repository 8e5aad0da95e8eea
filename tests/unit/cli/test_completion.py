"""Completion in shells."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from daemon import cli as commands
from daemon.cli import cli
from daemon.cli.completion import command
from daemon.domain.errors import ConfigError, QstreamdError, RedisAway, RedisFull


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str) -> None:
    found = CliRunner().invoke(command, [shell])
    assert found.exit_code == 0
    assert "_QSTREAMD_COMPLETE" in found.output


def completed(arguments: list[str], incomplete: str) -> list[str]:
    """What a shell would offer."""
    return [item.value for item in ShellComplete(cli, {}, "qstreamd", "X").get_completions(arguments, incomplete)]


def test_commands_verbs_and_options_are_completed() -> None:
    assert set(completed([], "con")) == {"consumers", "config"}
    assert completed(["models"], "") == ["block", "list", "unblock"]
    assert completed([], "--q") == ["--queues"]
    assert completed(["tasks"], "e") == ["explain"]
    assert completed(["tasks", "explain"], "--l") == ["--lang"]
    assert completed(["tasks", "list", "--state"], "ru") == ["running"]


def test_completing_a_name_imports_no_command() -> None:
    """A tab must not wait for clients of servers."""
    code = (
        "from click.shell_completion import ShellComplete; import sys; from daemon.cli import cli;"
        "assert ShellComplete(cli, {}, 'q', 'X').get_completions([], 's');"
        "assert not {'redis', 'asyncpg', 'aiohttp'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_errors_are_a_line_and_a_hint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever of ours comes up: never a stack, always a next step."""
    cases: list[tuple[Exception, int, str]] = [
        (ConfigError(["A is wrong"]), 78, "configuration: A is wrong\nhint: python -m daemon check"),
        (RedisAway("gone"), 75, "away: gone\nhint: python -m daemon doctor"),
        (RedisFull("full"), 75, "away: full\nhint: python -m daemon doctor"),
        (QstreamdError("odd"), 1, "error: odd\nhint: python -m daemon doctor"),
    ]
    for error, code, words in cases:

        def broken(error: Exception = error, **_: object) -> None:
            raise error

        monkeypatch.setattr(commands, "cli", broken)
        with pytest.raises(SystemExit) as end:
            commands.main()
        assert end.value.code == code
        assert click.unstyle(capsys.readouterr().err).startswith(words)
