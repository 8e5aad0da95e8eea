"""How soon another parallelism takes effect under load, seen from the provider's side.

`pytest --whole -s tests/e2e/test_parallelism.py` prints the numbers that docs/guides/flow-control.md shows.
"""

from __future__ import annotations

import statistics
import sys
import time

import pytest

from daemon.config import RedisSettings
from daemon.dev.fake_llm.calls import Call
from daemon.domain.clock import SystemClock
from daemon.queues.control import Controls
from daemon.redis_client.connection import connect
from daemon.redis_client.scripts import Scripts
from tests.e2e.test_fairness import QUEUE, accept
from tests.e2e.world import World
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(300)
DAEMONS, FEW, MANY = 2, 2, 6
SETTLED_S = 1.2  #: after a change, before the next one


class Load:
    """Two daemons with more waiting than they can do, and an operator who changes his mind."""

    def __init__(self, world: World, controls: Controls) -> None:
        self._world = world
        self._controls = controls

    async def order(self, parallelism: int) -> float:
        """When it was ordered; what runs is waited for until things have settled."""
        ordered = time.time()
        await self._controls.change([QUEUE], {"parallelism": parallelism}, who="test", why="")
        await wait_until(
            lambda: any(call.began > ordered + SETTLED_S for call in reversed(self._world.llm.calls)),
            description="calls long after the change",
            within_s=10,
        )
        return ordered

    def since(self, ordered: float) -> list[Call]:
        """Calls that began after an order."""
        return [call for call in self._world.llm.calls if call.began > ordered]

    async def raised(self) -> float:
        """Seconds until as many run at once as may."""
        ordered = await self.order(MANY)
        full = await wait_until(
            lambda: [call.began for call in self.since(ordered) if call.at_once == MANY * DAEMONS],
            description="all slots at work",
            within_s=10,
        )
        return min(full) - ordered

    async def lowered(self) -> float:
        """Seconds until nothing begins any more beyond what may run."""
        ordered = await self.order(FEW)
        late = [call.began for call in self.since(ordered) if call.at_once > FEW * DAEMONS]
        return max(late, default=ordered) - ordered


async def test_more_and_fewer_slots_take_effect_within_a_second(
    world: World, redis_settings: RedisSettings, *, whole: bool
) -> None:
    """From the order to the provider's count, both ways, again and again; what waits meanwhile never runs out."""
    changes = 25 if whole else 2
    tasks = 250 * (changes + 1)
    for _ in range(DAEMONS):
        await world.start_daemon(QUEUE, QUEUE_PARALLELISM_PAID_STREAM=str(FEW))
    await accept(world, [(f"t{n}", f"user{n}") for n in range(tasks)], tokens=40)
    await wait_until(lambda: len(world.llm.calls) > 10, description="a load")
    async with connect(redis_settings, name="test") as client:
        load = Load(world, Controls(Scripts(client), SystemClock()))
        found: dict[str, list[float]] = {"raised": [], "lowered": []}
        for _ in range(changes):
            found["raised"].append(await load.raised())
            found["lowered"].append(await load.lowered())
    assert len(world.llm.calls) < tasks, "the load ran out"
    for what, seconds in found.items():
        ordered = sorted(seconds)
        p95 = ordered[int(0.95 * (len(ordered) - 1))]
        sys.stdout.write(
            f"{what}: n={len(seconds)} median {statistics.median(seconds):.3f} s, P95 {p95:.3f} s, "
            f"longest {ordered[-1]:.3f} s\n"
        )
        assert statistics.median(seconds) < 1.0, found  # each one is, where nobody else uses the machine
    assert world.llm.max_at_once("plain") == MANY * DAEMONS
