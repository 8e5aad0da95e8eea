"""The shared read under trouble: servers that die, connections that are cut, keys of strangers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from daemon.config import EventSettings, RedisSettings
from daemon.config.types import SecretStr
from daemon.dev.embedded_redis import EmbeddedRedis
from daemon.domain.clock import SystemClock
from daemon.domain.errors import Code, RedisAway
from daemon.domain.events import Channel, Stage, error, token_batch
from daemon.domain.messages import TaskIdentity
from daemon.events.fan_out import FanOut
from daemon.events.log import EventLog
from daemon.events.stored_event import StoredEvent
from daemon.events.subscription import Subscription
from daemon.redis_client.connection import connect
from daemon.redis_client.scripts import Scripts
from tests.waiting import WaitUntil

END = error(Stage.EXECUTE, Code.LLM_ERROR, "x", retryable=False)


async def nothing(_: str) -> StoredEvent | None:
    return None


class Rig:
    """A hub that runs, and a pen."""

    def __init__(self, client: Any, fan_out: FanOut) -> None:
        self.client = client
        self.fan_out = fan_out
        self._events = EventLog(Scripts(client), EventSettings(), SystemClock())

    async def write(self, task_id: str, *texts: str, end: bool = False) -> None:
        drafts = [token_batch(text, Channel.TEXT) for text in texts] + ([END] if end else [])
        await self._events.append(TaskIdentity(task_id, "q_paid_stream", "r", "t"), 1, drafts)


@asynccontextmanager
async def rig_on(settings: RedisSettings) -> AsyncIterator[Rig]:
    client = connect(settings)
    fan_out = FanOut(client, settings, nothing)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(fan_out.run())
        yield Rig(client, fan_out)
        running.cancel()
    await client.aclose()


@pytest.fixture
async def rig(redis_settings: RedisSettings) -> AsyncIterator[Rig]:
    async with rig_on(redis_settings) as found:
        yield found


async def types(subscription: Subscription) -> list[str]:
    """Every type until the end."""
    found: list[str] = []
    while not subscription.ended:
        found += [entry.type for entry in await subscription.next(5)]
    return found


async def test_a_server_that_restarts_costs_no_event(redis_server: EmbeddedRedis, wait_until: WaitUntil) -> None:
    """Whatever was written before and after: every cursor is explicit."""
    async with rig_on(RedisSettings(url=SecretStr(redis_server.url))) as rig:
        with rig.fan_out.follow("t1") as subscription:
            await rig.write("t1", "a")
            await subscription.open()
            assert [e.type for e in await subscription.next(1)] == ["queued", "token_batch"]
            waiting = asyncio.get_running_loop().create_task(types(subscription))
            await wait_until(lambda: rig.fan_out.topics, description="it is live")
            await asyncio.to_thread(redis_server.restart)
            await rig.write("t1", "b", end=True)
            assert await asyncio.wait_for(waiting, 10) == ["token_batch", "error"]


@pytest.mark.redis_forms("server")
async def test_a_connection_that_is_cut_costs_no_event(rig: Rig, wait_until: WaitUntil) -> None:
    with rig.fan_out.follow("t1") as subscription:
        await subscription.open()
        waiting = asyncio.get_running_loop().create_task(types(subscription))
        for n in range(5):
            await wait_until(lambda: rig.fan_out.topics, description="it is live")
            for client in await rig.client.client_list():
                if client["name"] == "qstreamd-hub":
                    await rig.client.client_kill_filter(_id=client["id"])
            await rig.write("t1", str(n))
        await rig.write("t1", end=True)
        assert await asyncio.wait_for(waiting, 10) == ["queued", *["token_batch"] * 5, "error"]


async def test_a_topic_that_joins_is_read_at_once(rig: Rig, wait_until: WaitUntil) -> None:
    """The blocked read is woken for it: nobody waits for another task's events."""
    loop = asyncio.get_running_loop()
    with rig.fan_out.follow("t1") as first, rig.fan_out.follow("t2") as second:
        for subscription in (first, second):
            await subscription.open()
        waiting = loop.create_task(first.next(20))
        await wait_until(lambda: rig.fan_out.reads, description="the first is read")
        await asyncio.sleep(0.05)
        other = loop.create_task(second.next(20))
        await wait_until(lambda: rig.fan_out.topics == 2, description="the second has joined")
        await rig.write("t2", "a")
        began = loop.time()
        assert [e.type for e in await other] == ["queued", "token_batch"]
        assert loop.time() - began < 5  # the read that was under way would have blocked for longer
        rig.fan_out.close()
        assert await waiting == []
        assert first.ended == "closing"


async def test_a_slow_viewer_is_cut_at_its_limit(rig: Rig, wait_until: WaitUntil) -> None:
    with rig.fan_out.follow("t1", queue_max=10) as slow, rig.fan_out.follow("t1") as quick:
        for subscription in (slow, quick):
            await subscription.open()
            assert await subscription.next(0) == []
        for n in range(20):
            await rig.write("t1", str(n))
        await wait_until(lambda: slow.ended, description="the slow one is cut")
        assert (slow.ended, await slow.next(0)) == ("slow", [])
        await rig.write("t1", end=True)
        assert (await types(quick))[-1] == "error"


async def test_a_key_of_a_stranger_hurts_its_own_viewer_only(rig: Rig, wait_until: WaitUntil) -> None:
    """Another type under a task's name: that look fails, the hub goes on."""
    await rig.client.set("task:bad:events", "x")
    with rig.fan_out.follow("bad") as bad, rig.fan_out.follow("t1") as good:
        with pytest.raises(Exception, match="WRONGTYPE"):
            await bad.open()
        await good.open()
        waiting = asyncio.get_running_loop().create_task(types(good))
        await wait_until(lambda: rig.fan_out.topics, description="it is live")
        await rig.write("t1", end=True)
        assert await asyncio.wait_for(waiting, 5) == ["queued", "error"]


async def test_nobody_follows_while_redis_is_away(redis_server: EmbeddedRedis) -> None:
    async with rig_on(RedisSettings(url=SecretStr(redis_server.url))) as rig:
        await asyncio.to_thread(redis_server.kill)
        with rig.fan_out.follow("t1") as subscription, pytest.raises(RedisAway):
            await subscription.open()


async def test_an_idle_hub_sends_nothing(rig: Rig, wait_until: WaitUntil) -> None:
    """Without viewers there is no read; the last read of a topic that nobody watches ends by itself."""
    with rig.fan_out.follow("t1") as subscription:
        await subscription.open()
        await subscription.next(0)
        await wait_until(lambda: rig.fan_out.reads == 1, description="it is read")
    await asyncio.sleep(0.1)
    assert (rig.fan_out.reads, rig.fan_out.topics, len(rig.fan_out.viewers)) == (1, 0, 0)
