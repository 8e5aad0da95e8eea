"""The command line as a process."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import click
import pytest

from daemon.cli import cli

HEAVY: Final = ("redis", "asyncpg", "aiohttp", "openai", "google", "jinja2", "prometheus_client", "uvloop")


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    """`--help`, completion and probes start fast."""
    code = (
        "import sys; from click.testing import CliRunner; from daemon.cli import cli;"
        "print(CliRunner().invoke(cli, ['--help']).output);"
        f"print([m for m in sys.modules if m in {HEAVY!r}])"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    for name in cli.list_commands(click.Context(cli)):
        assert f"  {name} " in output
    assert output.rstrip().endswith("[]")


@pytest.mark.parametrize(
    ("queues", "environment", "code", "word"),
    [
        ("q_paid_stream", {"REDIS_URL": "redis://127.0.0.1:1/0"}, 75, "away: Redis"),
        ("q_paid_stream", {"QSTREAMD_LEASE_S": "1"}, 78, "configuration: "),
        ("q_paid_steam", {}, 78, "q_paid_stream"),
        (" ", {}, 2, "at least one queue"),
    ],
)
def test_a_daemon_that_can_not_start_says_why_and_exits_by_the_book(
    queues: str, environment: dict[str, str], code: int, word: str
) -> None:
    """75 for a server that is away, 78 for a mistake in the settings, 2 for one on the command line; no traceback."""
    given = {"DATABASE_URL": "postgresql://u:p@127.0.0.1:1/x", **environment}
    ended = subprocess.run(
        [sys.executable, "-m", "daemon", "--queues", queues],
        env=given, check=False, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert (ended.returncode, word in ended.stderr) == (code, True), ended.stderr
    assert "Traceback" not in ended.stderr
