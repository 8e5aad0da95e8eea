"""Scripts in any order of steps on a real server, held against a model in memory after each one.

`make test` draws a few hundred steps, the same ones each time; `make chaos` tens of thousands, new ones each time.
"""

from __future__ import annotations

import sys

import pytest

from daemon.config import RedisSettings
from tests.integration.lua import machines
from tests.integration.lua.events_machine import EventsMachine
from tests.integration.lua.permits_machine import GuardsMachine
from tests.integration.lua.queue_machine import QueueMachine

pytestmark = pytest.mark.timeout(1800)


def test_a_queue_loses_and_doubles_nothing(redis_settings: RedisSettings, *, whole: bool) -> None:
    """Every entry in exactly one place; every place taken once and given back once; the counter is the set."""
    steps = machines.run(QueueMachine, redis_settings, 280 if whole else 8, explore=whole)
    sys.stdout.write(f"{steps} steps of admission and queue\n")
    assert steps >= (10_000 if whole else 100)


def test_a_task_tells_one_story(redis_settings: RedisSettings, *, whole: bool) -> None:
    """`queued` once and first, no gap, no delta twice, nothing from below the fence, nothing after the end."""
    steps = machines.run(EventsMachine, redis_settings, 100 if whole else 5, explore=whole)
    sys.stdout.write(f"{steps} steps of events\n")


def test_no_guard_ever_holds_more_or_less_than_is_inside(redis_settings: RedisSettings, *, whole: bool) -> None:
    """Never above a limit, never a place for the dead; and when all have left everybody gets in."""
    steps = machines.run(GuardsMachine, redis_settings, 240 if whole else 5, explore=whole)
    sys.stdout.write(f"{steps} steps of guards\n")
    assert steps >= (10_000 if whole else 100)
