"""Nodes of a cluster die and come back, one after another, under load."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.e2e.world import LEASE_S, World
from tests.redis_clusters import EmbeddedCluster

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]
TASKS, KILLS = 400, 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedCluster]:
    """Three primaries that forget nothing."""
    with EmbeddedCluster(persist=True) as cluster:
        yield cluster


@pytest.fixture
async def own(cluster: EmbeddedCluster, postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with World(cluster.url, postgres_url, tmp_path) as world:
        world.variables |= {"QSTREAMD_CRASHES_MAX": "50", "QSTREAMD_REDIS_CONNECT_TIMEOUT_S": "1"}
        yield world


async def test_nodes_die_in_turn_and_nothing_is_lost_or_finished_twice(own: World, cluster: EmbeddedCluster) -> None:
    """A queue, a guard, an event stream may be away at any moment while the others are there."""
    for _ in range(3):
        await own.start_daemon()
    rng = random.Random(4)

    async def kill() -> None:
        for _ in range(KILLS):
            node = rng.choice(cluster.servers)
            await asyncio.to_thread(node.kill)
            await asyncio.sleep(rng.uniform(0.1, 0.8))
            await asyncio.to_thread(node.start)
            await asyncio.sleep(rng.uniform(0.2, 1.0))

    async with asyncio.TaskGroup() as group:
        group.create_task(kill())
        for n in range(TASKS):
            queue = rng.choice(["q_paid_stream", "q_paid_batch"])
            await own.publish(f"t{n}", tokens=rng.randint(10, 200), queue=queue)
    history = await own.check(within_s=90, overlap_s=3 * LEASE_S)
    assert len(history.tasks) == TASKS
    assert all(daemon.running for daemon in own.daemons)
