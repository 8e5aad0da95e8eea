"""`python -m daemon export-contracts` writes what is stale and says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from daemon.cli.export_contracts import command
from daemon.contract_docs import render


def test_write_then_check_is_clean_and_writing_again_changes_nothing(tmp_path: Path) -> None:
    """Repeatable; untouched files keep their time."""
    first = CliRunner().invoke(command, ["--write", str(tmp_path)])
    assert (first.exit_code, first.output.count("wrote ")) == (0, len(render()))
    assert CliRunner().invoke(command, ["--check", str(tmp_path)]).exit_code == 0
    assert CliRunner().invoke(command, ["--write", str(tmp_path)]).output == ""


def test_check_names_the_stale_file_and_writes_nothing(tmp_path: Path) -> None:
    """A build fails with the command that repairs it."""
    CliRunner().invoke(command, ["--write", str(tmp_path)])
    page = tmp_path / "protocol.md"
    page.write_text("old")
    found = CliRunner().invoke(command, ["--check", str(tmp_path)])
    assert found.exit_code == 1
    assert "protocol.md" in found.output and "--write" in found.output
    assert page.read_text() == "old"


@pytest.mark.parametrize("arguments", [[], ["--write", "a", "--check", "b"]])
def test_exactly_one_of_the_two_is_asked_for(arguments: list[str]) -> None:
    """Anything else is a usage error, exit 2."""
    assert CliRunner().invoke(command, arguments).exit_code == 2
