"""`python -m daemon check`: all mistakes at once, and nothing secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from daemon.cli.check import command


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def test_a_good_configuration_is_shown_with_what_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what differs from defaults; secrets masked; doubts named."""
    monkeypatch.setenv("REDIS_URL", "redis://:s3cret-s3cret@redis:6379/0")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-0123456789")
    found = CliRunner().invoke(command)
    assert found.exit_code == 0
    assert "redis://***@redis:6379/0" in found.output
    assert "QSTREAMD_LEASE_S" not in found.output
    assert "DEEPSEEK_API_KEY is not set: tasks of deepseek-flash, deepseek-pro would fail" in found.output
    assert "OPENAI_API_KEY is not set" not in found.output
    assert "canary" not in found.output and "s3cret" not in found.output


def test_everything_can_be_shown() -> None:
    assert "QSTREAMD_LEASE_S" in CliRunner().invoke(command, ["--all"]).output


def test_mistakes_of_settings_and_services_are_named_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Exit 78, which systemd does not restart on."""
    file = tmp_path / "services.toml"
    file.write_text("[services.x]\nbogus = 1\n")
    monkeypatch.setenv("SERVICES_FILE", str(file))
    monkeypatch.setenv("QSTREAMD_LEASE_S", "soon")
    found = CliRunner().invoke(command, ["--json"])
    mistakes = json.loads(found.output)["mistakes"]
    assert found.exit_code == 78
    assert any("QSTREAMD_LEASE_S" in line for line in mistakes)
    assert any("bogus" in line for line in mistakes)
    assert "mistake" in CliRunner().invoke(command).output


def test_a_role_asks_for_more() -> None:
    """What that process can't do without."""
    found = CliRunner().invoke(command, ["--role", "relay"])
    assert found.exit_code == 78
    assert "WORKER_BASE_URL is not set" in found.output
