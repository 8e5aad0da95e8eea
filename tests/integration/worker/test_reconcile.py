"""Counters of idle queues: looked at for next to nothing, and what nobody stands behind is found all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from daemon.config import QueueSettings
from daemon.domain.clock import SystemClock
from daemon.queues.drift import Drift
from daemon.queues.reservations import Reservations
from daemon.redis_client import keys
from daemon.redis_client.scripts import Scripts
from daemon.worker.reconcile import IDLE_ROUNDS, Reconciler
from tests.integration.worker.conftest import NAMES, QUEUE, Crew
from tests.waiting import WaitUntil

EVERY_S = 0.05
SETTINGS = QueueSettings(promise_ttl_s=0.3)


class Counted(Drift):
    """Counts its looks: at all queues in one command, and at one."""

    def __init__(self, crew: Crew) -> None:
        super().__init__(Scripts(crew.client), SETTINGS, SystemClock())
        self.glances = self.looks = 0

    async def counted(self, queues: Any) -> list[str]:
        self.glances += 1
        return await super().counted(queues)

    async def repair(self, queue: str, mark_ms: int) -> Any:
        self.looks += 1
        return await super().repair(queue, mark_ms)


@pytest.fixture
def drift(crew: Crew) -> Counted:
    """Of the process that the tests look at."""
    return Counted(crew)


@asynccontextmanager
async def at_work(crew: Crew, drift: Counted) -> AsyncIterator[None]:
    """The reconciler of a process that reads one queue and has run nothing."""
    reconciler = Reconciler(drift, {QUEUE: crew.consumer}, EVERY_S, crew.metrics)
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(reconciler.run())
        yield
        loop.cancel()


async def counter(crew: Crew) -> int:
    """What producers see."""
    return int(await crew.client.get(NAMES.counter) or 0)


async def test_a_queue_that_nobody_touched_costs_one_command_in_five_rounds(
    crew: Crew, drift: Counted, wait_until: WaitUntil
) -> None:
    """For all queues of the process together; none is looked at alone."""
    async with at_work(crew, drift):
        await wait_until(lambda: drift.glances >= 3, description="three glances")
    assert IDLE_ROUNDS == 5
    assert drift.looks == 0


async def test_a_bare_count_without_a_message_goes_although_the_queue_idles(
    crew: Crew, drift: Counted, wait_until: WaitUntil
) -> None:
    """An old producer counted and died: seen within five rounds, gone a promise time and five rounds later."""
    await crew.client.incr(NAMES.counter)
    async with at_work(crew, drift):

        async def gone() -> bool:
            return await counter(crew) == 0

        await wait_until(gone, description="the counter to be true")
        glances = drift.glances
        await wait_until(lambda: drift.glances >= glances + 2, description="the last look at it")
        looks, glances = drift.looks, drift.glances
        await wait_until(lambda: drift.glances >= glances + 2, description="two more glances")
    assert drift.looks == looks
    assert crew.metrics.counter_repairs.labels(QUEUE, "lowered")._value.get() == 1


async def test_a_promise_that_is_not_kept_goes_although_the_queue_idles(
    crew: Crew, drift: Counted, wait_until: WaitUntil
) -> None:
    """The same bound."""
    await Reservations(crew.scripts, SETTINGS).reserve(QUEUE, "never", "0" * 64, 10)
    async with at_work(crew, drift):

        async def gone() -> bool:
            return await counter(crew) == 0 and not await crew.client.exists(NAMES.waiting)

        await wait_until(gone, description="the promise to be given back")


async def test_a_paused_queue_is_never_taken_for_an_empty_one(
    crew: Crew, drift: Counted, wait_until: WaitUntil
) -> None:
    """Its counter was lost while its tasks wait: nobody starts, so nothing but the reconciler puts it right."""
    await Reservations(crew.scripts, QueueSettings()).reserve(QUEUE, "t1", "0" * 64, 10)
    await crew.client.set(keys.dedup(QUEUE, "t1"), "1-0:0", ex=60)
    await crew.client.delete(NAMES.counter)
    await crew.consumer.pause()
    async with at_work(crew, drift):

        async def raised() -> bool:
            return await counter(crew) == 1

        await wait_until(raised, description="the counter to be raised")


async def test_a_counter_that_is_lost_on_an_idle_queue_is_raised(
    crew: Crew, drift: Counted, wait_until: WaitUntil
) -> None:
    """It was counted at the last look and is not any more: one look says why, and no more command is sent when idle."""
    await Reservations(crew.scripts, QueueSettings()).reserve(QUEUE, "t1", "0" * 64, 10)
    await crew.client.set(keys.dedup(QUEUE, "t1"), "1-0:0", ex=60)
    async with at_work(crew, drift):
        await wait_until(lambda: drift.looks >= 1, description="the count to be seen")
        await crew.client.delete(NAMES.counter)

        async def raised() -> bool:
            counted = crew.metrics.counter_repairs.labels(QUEUE, "raised")._value.get()
            return await counter(crew) == 1 and counted == 1

        await wait_until(raised, description="the counter to be raised and the repair counted")
