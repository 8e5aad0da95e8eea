"""Runs a rule-based state machine on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import uvloop
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from daemon.config import RedisSettings
from daemon.redis_client.connection import connect

STEPS: Final = 50


def run(machine: type[RuleBasedStateMachine], redis: RedisSettings, runs: int, *, explore: bool = False) -> int:
    """`runs` times up to fifty steps from an empty server; how many steps that were.

    Always the same ones, so that a build is never red by chance; `explore` draws new ones and shrinks what it finds.
    """
    phases = [Phase.generate, Phase.shrink] if explore else [Phase.generate]
    with _connected(machine, redis), _counted(machine) as steps:
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
    return sum(steps)


@contextmanager
def _counted(machine: type[RuleBasedStateMachine]) -> Iterator[list[int]]:
    """A 1 for each step: from outside, since what is drawn depends on the machine's text."""
    steps: list[int] = []
    look = machine.check_invariants
    begun: set[RuleBasedStateMachine] = set()

    def counted(self: RuleBasedStateMachine, *args: Any) -> None:
        steps.append(int(self in begun))  # the first look comes before the first step
        begun.add(self)
        look(self, *args)

    machine.check_invariants = counted  # type: ignore[assignment, method-assign]
    try:
        yield steps
    finally:
        del machine.check_invariants


@contextmanager
def _connected(machine: type[RuleBasedStateMachine], redis: RedisSettings) -> Iterator[None]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        client = connect(redis)
        machine.runner, machine.client = runner, client
        try:
            yield
        finally:
            runner.run(client.aclose())
