"""A daemon's loop stands still, its drain is cut short, its host is suspended, or it can't even start."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from daemon.dev.embedded_postgres import EmbeddedPostgres
from daemon.dev.embedded_redis import EmbeddedRedis
from daemon.redis_client import keys
from tests.e2e.world import CALM, LEASE_S, World

pytestmark = [pytest.mark.timeout(120), pytest.mark.long]
#: computes for as many seconds, with the loop standing still, when it is told to
BLOCKS = """
import signal, time
signal.signal(signal.SIGUSR2, lambda *_: time.sleep({seconds}))
from daemon.__main__ import main
main()
"""
#: a release in which something is missing
BROKEN = """
import sys
sys.modules["asyncpg"] = None
from daemon.__main__ import main
main()
"""


async def blocking(world: World, seconds: float) -> None:
    """A daemon runs `t1`, and then its loop stands still for so long."""
    daemon = world.new_daemon()
    daemon.start(("-c", BLOCKS.format(seconds=seconds)))
    await daemon.ready()
    await world.publish("t1", tokens=600)
    await world.seen("t1", "token_batch")
    daemon.signal(signal.SIGUSR2)


async def test_a_loop_that_stands_still_for_less_than_a_lease_loses_nothing(world: World) -> None:
    """F13, short: no second call."""
    world.variables |= CALM
    await blocking(world, LEASE_S)
    await world.start_daemon()
    await world.ended("t1")
    history = await world.check()
    assert history.calls() == 1
    assert world.daemons[0].log("loop.lagged"), "it did stand still"


async def test_a_loop_that_stands_still_for_three_leases_is_a_zombie(world: World) -> None:
    """F13, long: another one takes over; what the late one still says counts for nothing, and it lives on."""
    await blocking(world, 3 * LEASE_S)
    await world.start_daemon()
    await world.seen("t1", "started", attempt=2)
    done = await world.ended("t1")
    assert (done["type"], done["attempt"]) == ("done", 2)
    await world.check(overlap_s=3 * LEASE_S)
    assert (await world.daemons[0].logged("attempt.ended"))["outcome"] == "fenced"
    assert world.daemons[0].running


async def test_a_drain_that_is_cut_short_is_a_crash_like_any_other(world: World) -> None:
    """F16: SIGKILL after TimeoutStopSec, in mid-drain. Found after a lease; run by another."""
    first = await world.start_daemon()
    await world.publish("t1", tokens=1000)
    await world.seen("t1", "token_batch")
    first.signal(signal.SIGTERM)
    await first.logged("daemon.draining")
    first.kill()
    await world.start_daemon()
    done = await world.ended("t1")
    assert (done["type"], done["attempt"]) == ("done", 2)
    await world.check()
    assert (await world.row("t1"))["crashes"] == 1


async def test_a_host_with_everything_on_it_is_suspended(
    redis_server: EmbeddedRedis, postgres_server: EmbeddedPostgres, tmp_path: Path
) -> None:
    """F18, all but the kernel's clock: servers and daemons stand still for three leases, and wake one after another."""
    async with World(redis_server.url, postgres_server.url, tmp_path) as world:
        daemons = [await world.start_daemon() for _ in range(2)]
        await world.publish_many([f"t{n}" for n in range(6)], tokens=600)
        await world.seen("t0", "token_batch")
        for daemon in daemons:
            daemon.pause()
        redis_server.pause()
        postgres_server.pause()
        await asyncio.sleep(3 * LEASE_S)
        postgres_server.resume()
        redis_server.resume()
        for daemon in daemons:
            daemon.resume()
        await world.publish("after")
        history = await world.check(overlap_s=LEASE_S)
        assert history.states() == {"done": 7} and all(daemon.running for daemon in daemons)


async def test_a_release_that_can_not_be_imported_leaves_the_backlog_alone(world: World) -> None:
    """F21: it ends before it reads, again and again; nothing is claimed, nothing lost, and a good one runs it all."""
    await world.publish_many([f"t{n}" for n in range(5)])
    names = keys.queue_keys("q_paid_stream")
    for _ in range(3):
        daemon = world.new_daemon()
        daemon.start(("-c", BROKEN))
        assert await daemon.ended() == 1
        assert "asyncpg" in daemon.words()
        assert await world.redis.xlen(names.tasks) == 5
        assert await world.redis.get(names.counter) == "5"
    assert await world.sql("SELECT 1 FROM qstreamd.tasks") == []
    await world.start_daemon()
    history = await world.check()
    assert history.calls() == 5
