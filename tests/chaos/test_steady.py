"""A steady load for minutes, daemons that come and go beside two that stay: at the end nobody holds more.

`make soak` runs half an hour (`ARGS=--minutes=…` another time), `make chaos` two minutes.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest

from tests.chaos.growth import Sample, compared, grown, sample
from tests.e2e.processes import DaemonProcess
from tests.e2e.world import World

pytestmark = [pytest.mark.timeout(0), pytest.mark.long]

PER_S = 15  #: tasks published a second: a fraction of what two daemons can do, so that nothing piles up
LOAD_S, REST_S = 10.0, 3.0  #: a stretch of load; then events and ids may end their lives
SERVICES = ["plain"] * 16 + ["f-cut-once", "f-500-once", "f-429-after-1-once", "f-blocked"]
#: what lives after a task's end goes while the load rests, and leases are long enough for a busy machine
SHORT = {
    "QSTREAMD_EVENTS_TTL_AFTER_END_S": "2",
    "QSTREAMD_SEEN_TTL_S": "3",
    "QSTREAMD_PROMISE_TTL_S": "2",
    "QSTREAMD_DEAD_COUNT_MAX": "100",
    "QSTREAMD_LEASE_S": "4",
    "QSTREAMD_BEAT_S": "1",
    "QSTREAMD_SELF_FENCE_S": "3",
    "QSTREAMD_DEPTHS_S": "1",
    "QSTREAMD_CRASHES_MAX": "50",
    "QSTREAMD_BREAKER_FAILURES": "1000",
}


@pytest.fixture
async def own(redis_url: str, postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """A world in which records do not live long."""
    async with World(redis_url, postgres_url, tmp_path, tokens_per_s=100, variables=SHORT) as world:
        yield world


async def counted(world: World) -> DaemonProcess:
    """A daemon that says how many tasks its loop holds."""
    daemon = world.new_daemon()
    daemon.start(("-m", "tests.chaos.counted"))
    await daemon.logged("loop.tasks", within_s=30)
    return daemon


async def load(world: World, began: int, seconds: float) -> int:
    """Publish at a steady rate for so long; how many there are then."""
    rng, due, until = random.Random(began), time.monotonic(), time.monotonic() + seconds
    waiting, n = asyncio.Semaphore(64), began

    async def one(task_id: str) -> None:
        async with waiting:
            queue = rng.choice(["q_paid_stream", "q_paid_batch"])
            await world.publish(task_id, rng.choice(SERVICES), tokens=rng.randint(5, 60), queue=queue)

    async with asyncio.TaskGroup() as group:
        while due < until:
            group.create_task(one(f"t{n}"))
            n, due = n + 1, due + 1 / PER_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))
    return n


async def come_and_go(world: World, stop: asyncio.Event) -> None:
    """A third daemon: stopped or killed every ten seconds, and another one in its place."""
    for n in count():
        daemon = await world.start_daemon()
        try:
            async with asyncio.timeout(10):
                await stop.wait()
        except TimeoutError:
            if n % 2:
                daemon.kill()
            else:
                await daemon.stop(60)
            world.daemons.remove(daemon)
        else:
            return


def tell(samples: list[Sample]) -> None:
    """Each value in the second quarter and in the last."""
    for name, (before, after) in compared(samples).items():
        print(f"{name:28} {before:10.0f} -> {after:10.0f}")  # noqa: T201


async def test_a_steady_load_makes_nothing_grow(own: World, minutes: float) -> None:
    """No growth of memory, connections, descriptors, asyncio tasks, consumers or keys; and every task ends once.

    Sampled at rest, between two stretches of load: what is held then is held for good, however busy the machine is.
    """
    await own.start_relay(**SHORT)
    stay = [await counted(own) for _ in range(2)]
    samples: list[Sample] = []
    stop, until, published = asyncio.Event(), time.monotonic() + minutes * 60, 0
    async with asyncio.TaskGroup() as group:
        group.create_task(come_and_go(own, stop))
        while time.monotonic() < until:
            published = await load(own, published, LOAD_S)
            await own.quiescent(within_s=120)
            await asyncio.sleep(REST_S)
            samples.append(await sample(own, stay))
        stop.set()
    tell(samples)
    print(f"{published} tasks in {minutes:g} minutes, {len(samples)} samples")  # noqa: T201
    history = await own.check(within_s=120, events_lost=True, overlap_s=8.0)
    assert history.states().total() == published
    assert grown(samples) == []
    for daemon in stay:
        assert await daemon.stop(60) == 0
