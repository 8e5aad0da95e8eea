"""`python -m daemon config`: what people and programs see of the settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from daemon import config
from daemon.cli.config import command
from daemon.domain.errors import ConfigError

ROOT = Path(__file__).parents[3]


def test_each_setting_is_printed_with_source_and_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grouped, one line each, secrets masked."""
    monkeypatch.setenv("REDIS_URL", "redis://:s3cret@redis:6379/0")
    monkeypatch.setenv("API_KEYS", "web:0123456789abcdef")
    found = CliRunner().invoke(command)
    lines = found.stdout.splitlines()
    assert found.exit_code == 0
    assert lines[0] == "[runtime]"
    assert f"{'REDIS_URL':<38} environment  redis://***@redis:6379/0" in lines
    assert f"{'QSTREAMD_LEASE_S':<38} default      20 s" in lines
    assert f"{'QSTREAMD_DIRECT_SUBMIT':<38} default      false" in lines
    assert f"{'DATABASE_URL':<38} default      -" in lines
    assert f"{'API_KEYS':<38} environment  ***" in lines
    assert "s3cret" not in found.output and "0123456789abcdef" not in found.output
    assert len([line for line in lines if line and not line.startswith("[")]) == len(config.catalogue())


def test_programs_get_json_with_typed_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers are numbers, lists are lists, and warnings stay out of it."""
    monkeypatch.setenv("REDIS_URL", "redis://redis:6379/0")
    found = CliRunner().invoke(command, ["--json"])
    entries = {entry["name"]: entry for entry in json.loads(found.stdout)}
    assert entries["QSTREAMD_LEASE_S"] == {
        "group": "lease",
        "name": "QSTREAMD_LEASE_S",
        "value": 20.0,
        "source": "default",
        "unit": "s",
        "reason": "another host takes over within 25 s; a failover of Redis of 10 s stops no call",
    }
    assert entries["ALLOWED_ORIGINS"]["value"] == []
    assert found.stderr.startswith("warning: REDIS_URL=redis://redis:6379/0")


def test_mistakes_end_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The group turns them into one line each and exit code 78."""
    monkeypatch.setenv("QSTREAMD_BEAT_S", "fast")
    found = CliRunner().invoke(command)
    assert isinstance(found.exception, ConfigError)
    assert found.stdout == ""


def test_a_role_can_be_asked_for_before_it_is_started() -> None:
    """The same questions that the process asks at its start."""
    found = CliRunner().invoke(command, ["--role", "daemon"])
    assert isinstance(found.exception, ConfigError)
    assert "DATABASE_URL" in str(found.exception)


def test_the_settings_page_is_up_to_date() -> None:
    """Repair: `python -m daemon config --docs > docs/settings.md`."""
    assert (ROOT / "docs/settings.md").read_text("utf-8") == CliRunner().invoke(command, ["--docs"]).stdout
