"""A cancel that meets the end of its task: one of the two wins, and everybody is told the same."""

from __future__ import annotations

import asyncio
import random

import pytest

from daemon import config
from daemon.admin.orders import cancel
from tests.e2e.world import World

pytestmark = pytest.mark.timeout(120)


@pytest.mark.long
async def test_a_cancel_that_races_completion_ends_the_task_once(world: World) -> None:
    """F75: done or cancelled, one terminal event, and the row says the same."""
    await world.start_daemon()
    await world.publish("warm")
    await world.ended("warm")
    settings = config.load({"REDIS_URL": world.redis_url, "DATABASE_URL": world.database_url})
    rng = random.Random(75)

    async def race(n: int) -> None:
        await world.publish(f"t{n}", tokens=10)
        await asyncio.sleep(rng.uniform(0, 0.25))
        await cancel(settings, f"t{n}", "changed my mind")

    for start in range(0, 24, 4):
        await asyncio.gather(*(race(n) for n in range(start, start + 4)))
    history = await world.check()
    states = history.states()
    assert states["done"] + states["cancelled"] == 25 and states["cancelled"] > 0
