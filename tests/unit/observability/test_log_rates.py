"""A storm of one event does not drown the others."""

from __future__ import annotations

import json

import pytest

from daemon.config import RuntimeSettings
from daemon.observability.log_rates import BURST, PER_S, LogRates
from daemon.observability.logging import configure, logger


def test_a_storm_is_counted_and_named_by_the_next_line() -> None:
    """The burst is written, the rest is counted; a second later there is room again."""
    now = 0.0
    rates = LogRates(lambda: now)
    assert [rates.admit("read.failed") for _ in range(int(BURST))] == [0] * int(BURST)
    assert [rates.admit("read.failed") for _ in range(7)] == [None] * 7
    assert rates.admit("lease.renewal_failed") == 0
    now = 1.0
    assert rates.admit("read.failed") == 7
    assert [rates.admit("read.failed") for _ in range(int(PER_S))] == [0] * (int(PER_S) - 1) + [None]


def test_the_record_of_attempts_is_never_left_out() -> None:
    """One line an attempt, however many there are."""
    rates = LogRates(lambda: 0.0)
    assert all(rates.admit("attempt.ended") == 0 for _ in range(1000))


def test_lines_are_left_out_and_the_count_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """As an operator sees it."""
    configure(RuntimeSettings(log_format="json"))
    log = logger("test")
    for _ in range(int(BURST) + 50):
        log.warning("read.failed", queue="q")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert int(BURST) <= len(lines) < int(BURST) + 5
    assert {line["event"] for line in lines} == {"read.failed"}
