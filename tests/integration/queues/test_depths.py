"""Sizes by source of truth, on a real server."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from daemon.domain.queues import Tier
from daemon.queues.depths import DepthReader
from daemon.redis_client import keys
from tests.integration.redis_side import QUEUE, Side

pytestmark = pytest.mark.redis_versions
NAMES = keys.queue_keys(QUEUE)


async def commands(client: Redis) -> int:
    """Commands that the server has taken from clients."""
    stats = await client.info("commandstats")
    return sum(one["calls"] for name, one in stats.items() if name == "cmdstat_evalsha")


async def test_an_unused_queue_has_zeros(side: Side) -> None:
    """No key, no stream, no group: nothing waits, and nothing is made by looking."""
    await side.client.flushdb()
    depths = await DepthReader(side.scripts).read([QUEUE], ["m1"])
    (one,) = depths.queues
    assert (one.waiting, one.running, one.delayed, one.dead, one.occupancy, one.oldest_at_s) == (0, 0, 0, 0, 0, None)
    assert (one.consumers, one.paused, depths.unavailable) == (0, False, {})
    assert depths.permits_in_use == {("m1", Tier.PAID): 0, ("m1", Tier.FREE): 0}
    assert await side.client.dbsize() == 0


async def test_waiting_running_and_the_oldest_are_told_apart(side: Side) -> None:
    """Pending entries run; of those that wait the oldest of both streams counts, deleted ones never."""
    first = await side.add("t1")
    second = await side.add("t2")
    await side.add("t3")
    await side.work.fetch(QUEUE, 1)
    await side.client.xack(NAMES.tasks, keys.GROUP, first)
    await side.client.xdel(NAMES.tasks, first)  # XINFO's lag is nil from here on
    reader = DepthReader(side.scripts)
    (one,) = (await reader.read([QUEUE], [])).queues
    assert (one.waiting, one.running) == (2, 0)
    assert one.oldest_at_s == int(second.partition("-")[0]) / 1000
    await side.work.fetch(QUEUE, 2)
    (one,) = (await reader.read([QUEUE], [])).queues
    assert (one.waiting, one.running, one.oldest_at_s, one.occupancy) == (0, 2, None, 3)
    await side.client.xadd(NAMES.ready, {"task": "x"}, id="5-0")
    (one,) = (await reader.read([QUEUE], [])).queues
    assert (one.waiting, one.running, one.oldest_at_s) == (1, 2, 0.005)


async def test_delayed_dead_paused_and_living_are_told(side: Side) -> None:
    """Each from its own key; a consumer that lapsed does not live."""
    client = side.client
    await client.zadd(NAMES.retry, {"t7": 1, "t8": 2})
    await client.xadd(NAMES.dead, {"code": "LLM_ERROR"})
    await client.hset(NAMES.control, mapping={"paused": "1", "why": "storm"})
    seconds, _ = await client.time()
    later = (seconds + 60) * 1000
    await client.zadd(keys.CONSUMERS, {f"{QUEUE}/a": later, f"{QUEUE}/b": 1, "q_other/a": later})
    (one,) = (await DepthReader(side.scripts).read([QUEUE], [])).queues
    assert (one.delayed, one.dead, one.paused, one.consumers) == (2, 1, True, 1)
    assert one.control.why == "storm"


async def test_places_of_models_and_what_is_closed_are_told(side: Side) -> None:
    """A lease that ran out holds no place; the reason of a closed model comes with it; memory as the server says."""
    client = side.client
    seconds, _ = await client.time()
    later = (seconds + 60) * 1000
    await client.zadd(keys.model_permits("m1", "paid"), {"t1:x": later, "t2:x": later, "t3:x": 1})
    await client.set(keys.model_keys("m2").cooldown, "QUOTA", px=60_000)
    depths = await DepthReader(side.scripts).read([], ["m1", "m2"])
    assert depths.permits_in_use["m1", Tier.PAID] == 2 and depths.permits_in_use["m1", Tier.FREE] == 0
    assert depths.unavailable == {"m2": "QUOTA"}
    assert depths.memory_bytes is not None and depths.memory_bytes > 100_000
    assert depths.memory_bytes_max == 0


@pytest.mark.redis_forms("server")
async def test_a_look_is_one_flush_of_one_command_a_queue(side: Side) -> None:
    """Seven commands for six queues: what a scrape costs where commands are billed."""
    reader = DepthReader(side.scripts)
    queues = [f"q_{n}" for n in range(6)]
    await reader.read(queues, ["m1", "m2"])
    flushes, before = side.scripts.flushes, await commands(side.client)
    await reader.read(queues, ["m1", "m2"])
    assert side.scripts.flushes - flushes == 1
    assert await commands(side.client) - before == 7
