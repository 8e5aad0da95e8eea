"""Redis restarts, forgets, hangs, refuses: bounded, loud, and healed without a restart of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.dev.embedded_redis import EmbeddedRedis
from daemon.redis_client import keys
from tests.chaos.redis_proxy import RedisProxy
from tests.e2e.world import LEASE_S, World
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)
QUEUE = keys.queue_keys("q_paid_stream")


@pytest.fixture
async def own(redis_server: EmbeddedRedis, postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """A world on a durable Redis of its own."""
    async with World(redis_server.url, postgres_url, tmp_path) as world:
        yield world


async def busy(world: World, count: int = 6, tokens: int = 400) -> None:
    """Some tasks whose models write."""
    await world.publish_many([f"t{n}" for n in range(count)], tokens=tokens)
    await world.seen("t0", "token_batch")


@pytest.mark.parametrize("way", [pytest.param("restart", marks=pytest.mark.long), "kill"])
async def test_redis_restarts(own: World, redis_server: EmbeddedRedis, way: str) -> None:
    """F22, F23: with the shipped fsync nothing is lost, nothing runs twice beyond what a lease allows."""
    daemon = await own.start_daemon()
    await busy(own)
    if way == "restart":
        await asyncio.to_thread(redis_server.restart)
    else:
        await asyncio.to_thread(redis_server.kill)
        await asyncio.to_thread(redis_server.start)
    await own.publish("after")
    await own.check(overlap_s=LEASE_S)
    assert daemon.running


@pytest.mark.long
async def test_redis_is_away_for_twenty_seconds(own: World, redis_server: EmbeddedRedis) -> None:
    """F23, for longer than any retry of a client: the same processes go on, nothing is lost."""
    daemon = await own.start_daemon()
    await busy(own)
    await asyncio.to_thread(redis_server.kill)
    await asyncio.sleep(20)
    assert daemon.running
    await asyncio.to_thread(redis_server.start)
    await own.publish("after")
    await own.check(within_s=60, overlap_s=LEASE_S)
    assert daemon.running


async def test_redis_forgets_everything(own: World) -> None:
    """F25: FLUSHALL. Groups are made again, what was claimed comes back from Postgres, new tasks run at once."""
    daemon = await own.start_daemon()
    await busy(own)
    await own.redis.flushall()
    await own.publish("after")
    await own.ended("after")
    await own.check(events_lost=True, overlap_s=LEASE_S, within_s=40)
    assert daemon.running


@pytest.mark.long
async def test_the_group_is_destroyed(own: World) -> None:
    """F26: XGROUP DESTROY under running tasks."""
    daemon = await own.start_daemon()
    await busy(own)
    await own.redis.xgroup_destroy(QUEUE.tasks, keys.GROUP)
    await own.publish("after")
    await own.ended("after")
    await own.check(overlap_s=3 * LEASE_S)
    assert daemon.running


async def test_a_consumer_is_deleted_with_its_pending_entries(own: World) -> None:
    """F27: XGROUP DELCONSUMER makes ghosts; the sweeper puts the tasks back from Postgres."""
    first = await own.start_daemon()
    await busy(own, count=3)
    first.kill()
    for consumer in await own.redis.xinfo_consumers(QUEUE.tasks, keys.GROUP):
        await own.redis.xgroup_delconsumer(QUEUE.tasks, keys.GROUP, consumer["name"])
    await own.start_daemon()
    for n in range(3):
        assert (await own.ended(f"t{n}", within_s=20))["type"] == "done"
    await own.check()


@pytest.mark.long
async def test_the_stream_is_trimmed_while_entries_are_pending(own: World) -> None:
    """F28: the payload is gone; what had been claimed comes back from Postgres."""
    first = await own.start_daemon()
    await busy(own, count=3)
    first.kill()
    await own.redis.xtrim(QUEUE.tasks, maxlen=0, approximate=False)
    await own.start_daemon()
    await own.check(within_s=30)


@pytest.mark.long
async def test_scripts_are_flushed(own: World) -> None:
    """F38: each is loaded again where it is missed."""
    await own.start_daemon()
    await busy(own)
    await own.redis.script_flush()
    await own.publish("after")
    history = await own.check()
    assert history.calls() == 7


async def test_redis_hangs_for_two_leases(own: World, redis_server: EmbeddedRedis) -> None:
    """F31: a wedged server. Attempts fence themselves, nobody writes twice, and work goes on when it is back."""
    daemon = await own.start_daemon()
    await own.start_daemon()
    await busy(own)
    redis_server.pause()
    await asyncio.sleep(2 * LEASE_S)
    redis_server.resume()
    await own.publish("after")
    await own.check(overlap_s=LEASE_S)
    assert daemon.running


@pytest.mark.long
async def test_replies_vanish_for_two_leases(own: World) -> None:
    """F32: one-way black hole. Requests arrive, replies do not; another daemon sees everything."""
    async with RedisProxy(own.redis_url) as proxy:
        deaf = await own.start_daemon(redis_url=proxy.url, QSTREAMD_REDIS_COMMAND_TIMEOUT_S="0.5")
        await busy(own, count=3)
        proxy.deaf = True
        await own.start_daemon()
        await asyncio.sleep(2 * LEASE_S)
        proxy.cut()
        proxy.deaf = False
        await own.publish("after")
        await own.check(overlap_s=LEASE_S, within_s=40)
        assert deaf.running


@pytest.mark.long
async def test_connections_are_killed_again_and_again(own: World) -> None:
    """Every half second all of them: consumption goes on, none lost or doubled, the next task starts soon."""
    await own.start_daemon()
    await own.publish_many([f"t{n}" for n in range(60)], tokens=100)
    for _ in range(40):
        await own.redis.client_kill_filter(_type="normal", skipme=True)
        await asyncio.sleep(0.5)
    await own.publish("after")
    await own.ended("after", within_s=4)
    await own.check(within_s=60, overlap_s=LEASE_S)


async def test_redis_is_full(own: World) -> None:
    """F36: accepting is refused with Retry-After and the drain goes on; then all is accepted again."""
    relay = await own.start_relay()
    await own.start_daemon()
    await busy(own, count=3)
    await own.redis.config_set("maxmemory", "1")
    body = {"taskId": "no", "queueId": "q_paid_stream", "serviceId": "plain", "userId": "u", "variables": {}}
    refused = await relay.call("/worker/execute", body)
    assert refused.status == 503 and "Retry-After" in refused.headers
    await asyncio.sleep(LEASE_S)
    await own.redis.config_set("maxmemory", "0")
    await own.publish("after")
    await own.check(within_s=40)


@pytest.mark.long
async def test_the_primary_becomes_a_replica_for_a_while(own: World) -> None:
    """F30: READONLY on the fly, as in a failover."""
    daemon = await own.start_daemon()
    await busy(own)
    await own.redis.replicaof("127.0.0.1", "1")
    await asyncio.sleep(LEASE_S)
    await own.redis.replicaof("NO", "ONE")
    await own.publish("after")
    await own.check(overlap_s=LEASE_S, within_s=40)
    assert daemon.running


@pytest.mark.long
async def test_redis_takes_no_more_clients(own: World) -> None:
    """F37: bounded errors; those who are connected go on, and later all do."""
    daemon = await own.start_daemon()
    await busy(own, count=3)
    await own.redis.config_set("maxclients", "5")
    await own.redis.client_kill_filter(_type="normal", skipme=True)
    await asyncio.sleep(LEASE_S)
    await own.redis.config_set("maxclients", "1000")
    await own.publish("after")
    await own.check(overlap_s=LEASE_S, within_s=40)
    assert daemon.running


async def test_an_evicting_policy_refuses_the_start(own: World) -> None:
    """F43: exit 78, naming the setting; nothing was read."""
    await own.redis.config_set("maxmemory-policy", "allkeys-lru")
    daemon = own.new_daemon()
    daemon.start()
    assert await daemon.ended() == 78
    assert "maxmemory-policy" in daemon.words()


async def test_an_entry_that_nobody_can_read_blocks_nobody(own: World) -> None:
    """F45: not JSON, no field, too large: dead letters, and the next task runs."""
    await own.start_daemon()
    for fields in ({"task": "no json"}, {"other": "x"}, {"task": b"\xff\xfe"}, {"task": "x" * 3_000_000}):
        await own.redis.xadd(QUEUE.tasks, fields)
    await own.publish("after")
    await own.ended("after")
    await own.check()
    await wait_until(lambda: _dead(own, 4), description="four dead letters")


async def _dead(world: World, count: int) -> bool:
    return bool(await world.redis.xlen(QUEUE.dead) == count)


async def test_a_key_of_a_wrong_type_ends_one_task_only(own: World) -> None:
    """Somebody wrote a string where a task's events go: that task ends, and its entry does not go round for ever."""
    await own.start_daemon()
    await own.start_relay()
    await own.redis.set(keys.events("bad"), "not a stream", ex=600)
    await own.publish("bad")
    await own.publish("good")
    await own.ended("good")

    async def gone() -> bool:
        return bool(await own.redis.xlen(QUEUE.tasks) == 0)

    await wait_until(gone, description="the bad task left the stream", within_s=20)
    assert (await own.row("bad"))["state"] == "failed"
