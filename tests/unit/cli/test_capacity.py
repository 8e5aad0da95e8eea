"""`python -m daemon capacity`."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from daemon.cli.capacity import command


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def test_the_first_line_answers() -> None:
    """Slots, share and ceiling."""
    found = CliRunner().invoke(command, ["--backlog", "100", "--model", "deepseek-flash", "--tokens-in", "9000"])
    assert found.exit_code == 0
    assert found.output.startswith("12 slots end 98.15% within 300 s at 10 a minute; the ceiling is 98.58%")
    assert "=>     12" in found.output
    for word in (
        "processes   1",
        "QUEUE_MAX_SIZE=24",
        "backlog     gone after",
        "cost        $",
        "limit       deepseek",
    ):
        assert word in found.output


def test_what_no_number_of_slots_can_do_ends_with_1() -> None:
    found = CliRunner().invoke(command, ["--target", "0.99"])
    assert found.exit_code == 1
    assert found.output.startswith("No number of slots ends 99.00% within 300 s; the ceiling is 98.58%")


def test_programs_get_numbers() -> None:
    found = CliRunner().invoke(command, ["--timeout", "180", "--burst", "3x5m", "--json"])
    answer = json.loads(found.output)
    assert answer["ceiling"] == 1.0
    assert answer["chosen"]["in_sla"] >= 0.98


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--p95", "600"], "mean < P95 <= 3.86 means"),
        (["--burst", "3"], "such as 3x5m"),
        (["--model", "gtp"], "is not in the services file"),
    ],
)
def test_wrong_arguments_are_refused_with_what_is_allowed(arguments: list[str], words: str) -> None:
    found = CliRunner().invoke(command, arguments)
    assert found.exit_code == 2
    assert words in found.output


def test_a_load_that_stays_behind_never_ends_its_backlog() -> None:
    """An unreachable promise with too few slots says so."""
    found = CliRunner().invoke(command, ["--rate", "0.01", "--backlog", "1"])
    assert "backlog     gone after" in found.output
