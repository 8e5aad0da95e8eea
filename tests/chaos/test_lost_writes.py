"""Redis loses what it had acknowledged: the end of its log, or what a replica had not got when it became the primary.

What was never claimed is lost, which is the named limit of the promise (docs/guarantees.md). All else is whole again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from daemon.dev.embedded_redis import EmbeddedRedis
from tests.chaos.redis_proxy import RedisProxy
from tests.conftest import REDIS
from tests.e2e.world import ONE_AT_A_TIME, World, services_toml
from tests.waiting import wait_until

pytestmark = [pytest.mark.timeout(120), pytest.mark.long]


class Loss(Protocol):
    """A way to lose all that is written between `mark` and `lose`."""

    async def mark(self) -> None:
        """What is written from now on will be lost."""

    async def lose(self, proxy: RedisProxy) -> str:
        """The URL of the server that stands behind `proxy` now and has forgotten."""


class CutLog:
    """The machine loses power, and the disk the last writes of the log."""

    def __init__(self, server: EmbeddedRedis) -> None:
        self._server = server
        self._size = 0

    async def mark(self) -> None:
        self._size = self._log().stat().st_size

    async def lose(self, proxy: RedisProxy) -> str:
        await asyncio.to_thread(self._server.kill)
        assert self._log().stat().st_size > self._size, "nothing was written meanwhile"
        os.truncate(self._log(), self._size)
        await asyncio.to_thread(self._server.start)
        proxy.cut()
        return self._server.url

    def _log(self) -> Path:
        [log] = (self._server.directory / "appendonlydir").glob("*.incr.aof")
        return log


class LaggingReplica:
    """A replica that gets nothing any more becomes the primary."""

    def __init__(self, primary: EmbeddedRedis, replica: EmbeddedRedis) -> None:
        self._primary = primary
        self._replica = replica
        self._password = urlsplit(primary.url).password or ""

    async def follow(self) -> None:
        """From here on it gets everything."""
        ours = urlsplit(self._primary.url)
        async with Redis.from_url(self._replica.url) as replica, Redis.from_url(self._primary.url) as primary:
            await primary.config_set("repl-diskless-sync-delay", 0)
            await replica.config_set("masterauth", self._password)
            await replica.replicaof(ours.hostname or "", ours.port or 0)
        await self._same()

    async def mark(self) -> None:
        await self._same()
        async with Redis.from_url(self._replica.url) as replica:
            await replica.replicaof("NO", "ONE")
            await replica.config_set("requirepass", self._password)

    async def lose(self, proxy: RedisProxy) -> str:
        await asyncio.to_thread(self._primary.kill)
        url = f"redis://:{self._password}@127.0.0.1:{self._replica.port}/0"
        proxy.lead_to(url)
        return url

    async def _same(self) -> None:
        async with Redis.from_url(self._replica.url) as replica, Redis.from_url(self._primary.url) as primary:

            async def same() -> bool:
                here, there = await primary.info("replication"), await replica.info("replication")
                caught_up = here["master_repl_offset"] == there.get("slave_repl_offset")
                return bool(caught_up and there.get("master_link_status") == "up")

            await wait_until(same, description="the replica has everything")


@pytest.fixture(params=["log", "replica"])
async def loss(request: pytest.FixtureRequest, redis_server: EmbeddedRedis) -> AsyncIterator[Loss]:
    """F24, F29."""
    if request.param == "log":
        yield CutLog(redis_server)
        return
    with EmbeddedRedis(binary=next(iter(REDIS.values()))) as replica:
        lagging = LaggingReplica(redis_server, replica)
        await lagging.follow()
        yield lagging


@pytest.fixture
async def own(redis_server: EmbeddedRedis, postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """A world on a durable Redis of its own."""
    lease = {"QSTREAMD_LEASE_S": "3", "QSTREAMD_SELF_FENCE_S": "2.5"}
    async with World(redis_server.url, postgres_url, tmp_path, variables=lease) as world:
        (tmp_path / "services.toml").write_text(services_toml() + ONE_AT_A_TIME, "utf-8")
        yield world


async def test_the_last_writes_of_redis_are_lost(own: World, loss: Loss) -> None:
    """An ack, a pause or a whole entry is gone: each task ends once, and what has a result is not run again."""
    async with RedisProxy(own.redis_url) as proxy:
        daemon = await own.start_daemon(redis_url=proxy.url)
        relay = await own.start_relay(REDIS_URL=proxy.url)
        await own.publish("acked", tokens=500)
        await own.publish("holder", "narrow", tokens=1600)
        for task_id in ("acked", "holder"):
            await own.seen(task_id, "token_batch")
        daemon.pause()
        await own.publish("parked", "narrow")
        await loss.mark()
        daemon.resume()
        await own.seen("parked", "progress")  # it waits for the place of `holder`
        await own.publish("new", tokens=1000)
        await own.seen("new", "token_batch")
        await own.ended("acked")
        await own.redis.aclose()
        own.redis_url = await loss.lose(proxy)
        async with Redis.from_url(own.redis_url, decode_responses=True) as own.redis:
            await own.publish("after")
            history = await own.check(events_lost=True, within_s=40)
        calls = {task_id: len(task.calls) for task_id, task in history.tasks.items()}
        assert calls.pop("new") == 2, "its entry was gone, so it came back from Postgres"
        assert set(calls.values()) == {1}, calls
        assert history.states() == {"done": 5} and daemon.running and relay.process.poll() is None
