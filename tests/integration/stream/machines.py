"""Runs a rule-based state machine on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import uvloop
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from daemon.config import RedisSettings
from daemon.stream.connection import connect

STEPS: Final = 50


def run(machine: type[RuleBasedStateMachine], redis: RedisSettings, runs: int, *, explore: bool = False) -> None:
    """`runs` times up to fifty steps from an empty server.

    Always the same ones, so that a build is never red by chance; `explore` draws new ones and shrinks what it finds.
    """
    phases = [Phase.generate, Phase.shrink] if explore else [Phase.generate]
    with _connected(machine, redis):
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=runs,
                stateful_step_count=STEPS,
                derandomize=not explore,
                phases=phases,
                database=None,
                deadline=None,
                print_blob=explore,
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )


@contextmanager
def _connected(machine: type[RuleBasedStateMachine], redis: RedisSettings) -> Iterator[None]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        client = connect(redis)
        machine.runner, machine.client = runner, client
        try:
            yield
        finally:
            runner.run(client.aclose())
