"""The counter of a queue: what drifts is repaired, nobody who counts alone is fought, the refused are told when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from daemon.config import QueueSettings, RedisSettings
from daemon.domain.clock import SystemClock
from daemon.domain.events import started
from daemon.domain.messages import TaskMessage
from daemon.queues.admission import Accepted, Admission, Full
from daemon.queues.drift import Drift, Repairs
from daemon.queues.reservations import Reservations, Reserved
from daemon.redis_client import keys
from daemon.redis_client.connection import connect
from daemon.redis_client.scripts import Scripts
from tests.integration.redis_side import QUEUE, Side, task
from tests.waiting import wait_until

pytestmark = [pytest.mark.redis_versions, pytest.mark.usefixtures("redis_version")]
NAMES = keys.queue_keys(QUEUE)
PROMISE_S = 0.15
SETTINGS = QueueSettings(promise_ttl_s=PROMISE_S)
CLOCK = SystemClock()


class Door:
    """The door of one queue and who looks after its counter."""

    def __init__(self, client: Redis) -> None:
        self.client = client
        self.admission = Admission(Scripts(client), SETTINGS, CLOCK)
        self.reservations = Reservations(Scripts(client), SETTINGS)
        self.drift = Drift(Scripts(client), SETTINGS, CLOCK)

    async def accept(self, task_id: str, size: int = 10, *, counted: bool = False) -> object:
        message = TaskMessage(
            task_id=task_id, queue_id=QUEUE, service_id="s", user_id="u", variables={}, counted=counted
        )
        return await self.admission.accept(message, "0" * 64, size, {})

    async def count(self) -> int:
        return int(await self.client.get(NAMES.counter) or 0)

    async def repair(self) -> Repairs:
        """One look, whoever looked before."""
        await self.client.delete(keys.reconciling(QUEUE))
        return await self.drift.repair(QUEUE, 1000)


@pytest.fixture
async def door(redis_settings: RedisSettings) -> AsyncIterator[Door]:
    async with connect(redis_settings) as client:
        yield Door(client)


async def test_a_counter_that_is_too_low_is_raised_at_once(door: Door) -> None:
    """A lost key, or somebody's SET: the set of task ids is the truth."""
    for n in range(4):
        await door.accept(f"t{n}")
    for wrong in ("1", "-3", "x"):
        await door.client.set(NAMES.counter, wrong)
        assert (await door.repair()).raised > 0
        assert await door.count() == 4
    await door.client.delete(NAMES.counter)
    assert await door.repair() == Repairs(raised=4)


async def test_of_a_surplus_only_the_smallest_of_a_whole_promise_time_goes(door: Door) -> None:
    """A producer that counts by a bare INCR is ahead of its message: it is never fought."""
    await door.client.incrby(NAMES.counter, 3)  # two are lost, one is on its way
    assert await door.repair() == Repairs()
    await door.accept("late", counted=True)
    assert await door.repair() == Repairs()
    assert await door.count() == 3

    async def repaired() -> Repairs | None:
        found = await door.repair()
        return found if found.lowered else None

    assert await wait_until(repaired, description="the surplus to go") == Repairs(lowered=2)
    assert await door.count() == 1
    assert await door.repair() == Repairs()


async def test_promises_that_nobody_keeps_are_given_back(door: Door) -> None:
    """And one that was kept stays, however long it waits."""
    assert isinstance(await door.reservations.reserve(QUEUE, "kept", "0" * 64, 10), Reserved)
    assert isinstance(await door.reservations.reserve(QUEUE, "broken", "0" * 64, 10), Reserved)
    await door.accept("kept")
    await asyncio.sleep(PROMISE_S * 1.2)
    assert await door.repair() == Repairs(expired=1)
    assert await door.count() == 1
    assert await door.client.zrange(NAMES.waiting, 0, -1) == [b"kept"]


async def test_one_process_looks_at_a_time(door: Door) -> None:
    """The mark ends by itself."""
    await door.drift.repair(QUEUE, 60_000)
    await door.client.incrby(NAMES.counter, -5)
    assert await door.drift.repair(QUEUE, 60_000) == Repairs()
    assert 0 < await door.client.pttl(keys.reconciling(QUEUE)) <= 60_000


async def test_a_thousand_race_for_the_last_ten_places(door: Door) -> None:
    """Exactly ten get one, as the counter says and as the stream says."""
    verdicts = await asyncio.gather(*(door.accept(f"t{n}", 10) for n in range(1000)))
    assert sum(isinstance(v, Accepted) for v in verdicts) == 10
    assert await door.count() == await door.client.xlen(NAMES.tasks) == await door.client.zcard(NAMES.waiting) == 10


async def test_a_refused_producer_is_told_when_a_place_is_likely_free(door: Door, side: Side) -> None:
    """As fast as tasks really start; before the first start nobody knows."""
    for n in range(3):
        await door.accept(f"t{n}", 3)
    assert await door.accept("over", 3) == Full(3, 3, None)
    for delivery in await side.work.fetch(QUEUE, 2):
        assert delivery.entry is not None
        await side.settlement.begin(delivery, task(delivery.entry.message.task_id), 1, started("m"))
        await asyncio.sleep(0.05)
    refused = await door.accept("over", 1)
    assert isinstance(refused, Full) and refused.retry_after_s is not None and 0.01 < refused.retry_after_s < 1.5
    await door.client.hset(NAMES.start_interval, mapping={"mean": "2000"})
    await door.accept("t4", 9)
    await door.accept("t5", 9)
    refused = await door.accept("over", 2)
    assert isinstance(refused, Full) and refused.retry_after_s == pytest.approx(4.0, abs=0.1)
