"""The estimate that a daemon prints: what MONITOR counts is held beside it by tests/e2e/test_budgets.py."""

from __future__ import annotations

from daemon import config
from daemon.worker.command_budget import commands_a_minute, commands_a_month

STANDARD = config.load({})
METERED = config.load({"QSTREAMD_REDIS_PROFILE": "metered"})


def test_both_profiles_keep_their_budget_with_six_queues() -> None:
    """29 and 12 a minute; a month of the second fits into a free plan of 500,000 commands."""
    assert 20 < commands_a_minute(STANDARD, 6) <= 29
    assert commands_a_minute(METERED, 6) <= 12
    assert commands_a_month(METERED, 6) < 400_000
    assert commands_a_month(METERED, 6) % 1000 == 0


def test_a_server_that_does_not_block_costs_more() -> None:
    """Then the queues are polled."""
    assert 24 < commands_a_minute(METERED, 6, blocks=False) < 30
