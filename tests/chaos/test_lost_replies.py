"""A script ran and its reply was lost with the connection: the client library tries again before we hear of it."""

from __future__ import annotations

import time

import pytest

from daemon.redis_client import keys
from tests.chaos.redis_proxy import RedisProxy
from tests.e2e.world import CALM, LEASE_S, World
from tests.lua_scripts import script
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)


async def test_entries_whose_delivery_was_lost_run_within_a_lease(world: World) -> None:
    """F32 for the read: they are ours and we never saw them, while our consumer lives on."""
    async with RedisProxy(world.redis_url) as proxy:
        await world.start_relay()
        await world.publish_many([f"t{n}" for n in range(5)])
        proxy.lose_reply(script("fetch").sha)
        await world.start_daemon(redis_url=proxy.url)
        await wait_until(lambda: proxy.lost, description="the first read lost its reply")
        began = time.monotonic()
        for n in range(5):
            await world.ended(f"t{n}", within_s=10)
        assert time.monotonic() - began < 8 * LEASE_S
        history = await world.check()
        assert history.calls() == 5


@pytest.mark.long
async def test_entries_whose_reclaim_was_lost_run_within_a_lease(world: World) -> None:
    """The same for the sweep: nothing is pending to the dead any more, and to us it is unseen."""
    async with RedisProxy(world.redis_url) as proxy:
        first = await world.start_daemon()
        await world.publish("t1", tokens=2400)
        await world.seen("t1", "token_batch")
        second = await world.start_daemon(redis_url=proxy.url)
        first.kill()

        await wait_until(lambda: _idle_beyond(world, 0.8), description="the lease is nearly over", within_s=10)
        proxy.lose_reply(script("reclaim").sha)
        await wait_until(lambda: proxy.lost, description="a sweep lost its reply")
        await world.ended("t1", within_s=10)
        assert second.running
        await world.check()


async def test_a_task_whose_parking_was_lost_is_woken_in_time(world: World) -> None:
    """The entry is in `:retry`, though the repeated script says that it was not ours: the mover looks all the same."""
    async with RedisProxy(world.redis_url) as proxy:
        await world.start_daemon(redis_url=proxy.url)
        proxy.lose_reply(script("snooze").sha)
        await world.publish("t1", "f-cut-once")
        await wait_until(lambda: proxy.lost, description="the parking lost its reply")
        await world.ended("t1", within_s=3 * LEASE_S)
        assert proxy.lost == 1
        await world.check()


@pytest.mark.parametrize(
    "name",
    [
        "append",
        *(
            pytest.param(n, marks=pytest.mark.long)
            for n in ("acquire_permits", "begin", "ack", "renew_leases", "dead_letter")
        ),
    ],
)
async def test_a_lost_reply_changes_nothing_else(world: World, name: str) -> None:
    """Every script that is repeated finds what its first run did."""
    world.variables |= CALM
    async with RedisProxy(world.redis_url) as proxy:
        await world.start_daemon(redis_url=proxy.url)
        proxy.lose_reply(script(name).sha, count=2)
        await world.publish("t1", "f-blocked" if name == "dead_letter" else "plain", tokens=150)
        await world.ended("t1")
        await wait_until(lambda: proxy.lost == 2, description="both replies were lost")  # that of the ack comes last
        history = await world.check()
        assert history.calls() == 1


async def _idle(world: World) -> float:
    entries = await world.redis.xpending_range(keys.queue_keys("q_paid_stream").tasks, keys.GROUP, "-", "+", 10)
    return max((entry["time_since_delivered"] for entry in entries), default=0.0)


async def _idle_beyond(world: World, leases: float) -> bool:
    return await _idle(world) > leases * LEASE_S * 1000
