"""`run --queues`: what it hands to the daemon."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from daemon.cli.run import command
from daemon.config import Settings
from daemon.domain.errors import ConfigError
from daemon.processes import consumer


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The queues of each daemon that would have run."""
    seen: list[list[str]] = []

    async def run_daemon(settings: Settings, queues: list[str]) -> None:
        seen.append(list(queues))

    monkeypatch.setattr(consumer, "run_daemon", run_daemon)
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@127.0.0.1/x")
    return seen


def test_queues_are_names_between_commas(asked: list[list[str]]) -> None:
    """Blanks around them and empty ones do not count."""
    result = CliRunner().invoke(command, ["--queues", " q_paid_stream, q_free_vision,,"])
    assert result.exit_code == 0, result.output
    assert asked == [["q_paid_stream", "q_free_vision"]]


def test_no_queue_is_a_usage_error(asked: list[list[str]]) -> None:
    """A daemon that reads nothing is a mistake."""
    result = CliRunner().invoke(command, ["--queues", " , "])
    assert result.exit_code == 2
    assert "at least one queue" in result.output
    assert asked == []


def test_settings_are_judged_before_anything_starts(asked: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a daemon can't do without is named."""
    monkeypatch.delenv("DATABASE_URL")
    result = CliRunner().invoke(command, ["--queues", "q_paid_stream"])
    assert isinstance(result.exception, ConfigError)
    assert "DATABASE_URL" in str(result.exception)
    assert asked == []
