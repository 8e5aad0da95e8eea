"""Exit codes of `python -m daemon migrate` when it can't."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from daemon.cli.migrate import command
from daemon.domain.errors import StoreAway
from daemon.store import migrate
from daemon.store.migrate import MigrationRefused

URL = "postgresql://u:hunter2hunter2@db.example/d"


def test_postgres_away_is_75(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, no traceback, no password."""

    async def away(_url: str, *, force: bool) -> list[str]:
        assert not force
        raise StoreAway("Postgres can't be reached (ConnectionRefusedError)")

    monkeypatch.setattr(migrate, "migrate", away)
    monkeypatch.setenv("DATABASE_URL", URL)
    result = CliRunner().invoke(command, [])
    assert (result.exit_code, result.stderr) == (75, "migrate: Postgres can't be reached (ConnectionRefusedError)\n")


def test_a_history_that_does_not_fit_is_78(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each mistake."""

    async def refused(_url: str) -> object:
        raise MigrationRefused(["one", "two"])

    monkeypatch.setattr(migrate, "status", refused)
    monkeypatch.setenv("DATABASE_URL", URL)
    result = CliRunner().invoke(command, ["--status"])
    assert (result.exit_code, result.stderr) == (78, "migrate: one\nmigrate: two\n")


def test_without_a_database_url_is_78() -> None:
    """It says which variable, and what it looks like."""
    result = CliRunner().invoke(command, [])
    assert result.exit_code == 78
    assert "DATABASE_URL is missing: postgresql://" in result.stderr
