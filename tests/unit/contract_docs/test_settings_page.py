"""docs/settings.md as it is made."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from daemon import config
from daemon.cli.config import command
from daemon.config.rules import RULES
from daemon.contract_docs.settings_page import render_docs


def test_the_page_is_printed_whatever_the_environment_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is about the declarations, not about this process."""
    before = render_docs()
    monkeypatch.setenv("QSTREAMD_BEAT_S", "fast")
    monkeypatch.setenv("RELAY_PORT", "1")
    found = CliRunner().invoke(command, ["--docs"])
    assert (found.exit_code, found.stdout) == (0, before)


def test_the_page_names_every_setting_and_every_rule() -> None:
    """With its default and its reason, in tables that Markdown can read."""
    page = render_docs()
    for _, entry in config.catalogue():
        assert f"| `{entry.name}` |" in page and entry.reason in page
    assert all(rule.reason in page for rule in RULES)
    assert all(line.count(" | ") in {1, 2, 3} for line in page.splitlines() if line.startswith("| `"))
