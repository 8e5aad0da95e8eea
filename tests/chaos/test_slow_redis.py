"""Redis answers late, in crumbs, or not yet: nothing is lost, nothing runs twice, and no process of ours ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, ConnectionError  # noqa: A004

from daemon.dev.embedded_redis import EmbeddedRedis
from tests.chaos.redis_proxy import RedisProxy
from tests.conftest import REDIS
from tests.e2e.world import CALM, LEASE_S, World
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[RedisProxy]:
    """The way to Redis for our processes."""
    async with RedisProxy(redis_url) as proxy:
        yield proxy


@pytest.fixture
async def own(redis_server: EmbeddedRedis, postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """A world on a durable Redis of its own."""
    async with World(redis_server.url, postgres_url, tmp_path) as world:
        yield world


@pytest.mark.parametrize("way", ["crumbs", pytest.param("late", marks=pytest.mark.long)])
async def test_replies_come_late_or_in_crumbs(world: World, proxy: RedisProxy, way: str) -> None:
    """F34: 0 to 0.4 s each way. F35: one byte a packet. Each task takes longer and is called once."""
    world.variables |= CALM
    proxy.latency_s, proxy.crumbs = ((0.0, 0.4), False) if way == "late" else ((0.0, 0.0), True)
    daemon = await world.start_daemon(redis_url=proxy.url)
    await world.start_relay(REDIS_URL=proxy.url)
    tasks = [f"t{n}" for n in range(4)]
    await world.publish_many(tasks, tokens=40)
    await world.publish("again", "f-cut-once", tokens=40)
    for task_id in (*tasks, "again"):
        assert (await world.ended(task_id, within_s=30))["type"] == "done"
    history = await world.check()
    assert history.calls() == 6 and daemon.running


@pytest.fixture
def loading_server() -> Iterator[EmbeddedRedis]:
    """A durable server that needs some seconds to read its data, and says so meanwhile."""
    slow = {"key-load-delay": "10000", "loading-process-events-interval-bytes": "1024"}
    with EmbeddedRedis(options=slow, binary=next(iter(REDIS.values()))) as server:
        yield server


@pytest.mark.long
async def test_redis_is_still_loading(loading_server: EmbeddedRedis, postgres_url: str, tmp_path: Path) -> None:
    """F39: those who run go on, calls get a 503, a start is refused with 75, until it has loaded."""
    async with World(loading_server.url, postgres_url, tmp_path) as own:
        daemon = await own.start_daemon()
        await own.publish_many([f"t{n}" for n in range(3)], tokens=200)
        await own.seen("t0", "token_batch")
        for n in range(400):
            await own.redis.set(f"filler:{n}", random.randbytes(200).hex(), ex=600)
        await own.redis.bgrewriteaof()
        await wait_until(lambda: rewritten(own), description="the base of its log is written")
        await asyncio.to_thread(loading_server.kill)
        starting = asyncio.get_running_loop().run_in_executor(None, loading_server.start)
        await wait_until(lambda: loading(loading_server.url), description="it loads")
        body = {"taskId": "no", "queueId": "q_paid_stream", "serviceId": "plain", "userId": "u", "variables": {}}
        assert own.relay is not None
        refused = await own.relay.call("/worker/execute", body)
        second = own.new_daemon()
        second.start()
        assert await second.ended() == 75
        assert await loading(loading_server.url), "it had loaded before we had looked"
        assert (refused.status, "Retry-After" in refused.headers) == (503, True)
        await starting
        await own.publish("after")
        await own.check(overlap_s=LEASE_S, within_s=40)
        assert daemon.running


async def rewritten(world: World) -> bool:
    info = await world.redis.info("persistence")
    return not info["aof_rewrite_in_progress"] and not info["aof_rewrite_scheduled"] and info["aof_base_size"] > 50_000


async def loading(url: str) -> bool:
    """Whether it answers, and says that it loads."""
    client = Redis.from_url(url, retry=Retry(NoBackoff(), 0))
    try:
        await client.ping()
    except BusyLoadingError:
        return True
    except ConnectionError:
        pass
    finally:
        await client.aclose()
    return False


@pytest.mark.parametrize("busy_after_ms", [5000, 200])
@pytest.mark.long
async def test_somebody_s_script_holds_redis_up(own: World, busy_after_ms: int) -> None:
    """F40: four seconds without an answer, or with BUSY for one. Attempts fence themselves, and all goes on after."""
    daemons = [await own.start_daemon(), await own.start_daemon()]
    await own.publish_many([f"t{n}" for n in range(6)], tokens=400)
    await own.seen("t0", "token_batch")
    await own.redis.config_set("busy-reply-threshold", busy_after_ms)
    await own.redis.eval("local till = os.clock() + 4; while os.clock() < till do end", 0)
    await own.publish("after")
    await own.check(overlap_s=LEASE_S, within_s=40)
    assert all(daemon.running for daemon in daemons)
