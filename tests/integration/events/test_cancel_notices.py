"""Cancelling in Redis: found wherever it lies, told to whoever runs it, taken out once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import msgspec
import pytest

from daemon.config import EventSettings, QueueSettings, RedisSettings
from daemon.domain.errors import TaskError
from daemon.domain.messages import TaskMessage, WorkEntry
from daemon.events.cancel_notices import CancelNotices, CancelRequests
from daemon.observability.metrics import Metrics
from daemon.pipeline.in_flight import InFlight
from daemon.ports import Delivery
from daemon.redis_client import keys
from daemon.redis_client.connection import connect
from daemon.redis_client.scripts import Scripts
from daemon.worker.cancel_listener import CancelListener
from daemon.worker.lease import Leases
from tests.waiting import WaitUntil

QUEUE = "q_paid_stream"
NAMES = keys.queue_keys(QUEUE)


def entry(task_id: str = "t1") -> WorkEntry:
    message = TaskMessage(task_id=task_id, queue_id=QUEUE, service_id="s", user_id="u")
    return WorkEntry(message=message, sha256="a" * 64, accepted_at=1)


@pytest.fixture
async def client(redis_settings: RedisSettings) -> AsyncIterator[Any]:
    client = connect(redis_settings)
    yield client
    await client.aclose()


@pytest.fixture
def cancels(client: Any) -> CancelRequests:
    return CancelRequests(Scripts(client), EventSettings(), QueueSettings())


async def test_an_entry_is_found_wherever_it_lies(cancels: CancelRequests, client: Any) -> None:
    """In `:tasks`, parked, or woken into `:ready` among others; and not where only its id is mentioned."""
    assert await cancels.find(QUEUE, "t1") is None
    raw = msgspec.json.encode(entry())
    at = await client.xadd(NAMES.tasks, {"task": raw})
    await client.set(keys.dedup(QUEUE, "t1"), at + b":" + b"a" * 64)
    found = (entry(), f"tasks/{at.decode()}")
    assert await cancels.find(QUEUE, "t1") == found
    await client.xdel(NAMES.tasks, at)
    assert await cancels.find(QUEUE, "t1") is None
    await client.hset(NAMES.held, "t1", raw)
    assert await cancels.find(QUEUE, "t1") == found
    await client.hdel(NAMES.held, "t1")
    for n in range(600):
        await client.xadd(NAMES.ready, {"task": msgspec.json.encode(entry(f"x{n}"))})
    await client.xadd(NAMES.ready, {"task": b'{"taskId":"t1"}'})
    await client.xadd(NAMES.ready, {"other": b"x"})
    assert await cancels.find(QUEUE, "t1") is None
    await client.xadd(NAMES.ready, {"task": raw})
    assert await cancels.find(QUEUE, "t1") == found
    for poison in (b"{poison", b'{"message":{"taskId":"\xf0"}}'):
        await client.hset(NAMES.held, "t1", poison)
        assert await cancels.find(QUEUE, "t1") is None


async def test_a_mark_lives_with_the_events_and_not_after_the_end(cancels: CancelRequests, client: Any) -> None:
    state = keys.events_state("t1")
    assert await cancels.mark("t1") is True
    assert 0 < await client.ttl(state) <= 86_400
    await client.expire(state, 10)
    assert await cancels.mark("t1") is True
    assert await client.ttl(state) <= 10
    await client.hset(state, "ended", 1)
    assert await cancels.mark("t1") is False


async def test_a_task_is_taken_out_once(cancels: CancelRequests, client: Any) -> None:
    """Place and blobs go with it; a counter that would fall below zero stays there."""
    at = await client.xadd(NAMES.tasks, {"task": "x"})
    await client.set(keys.dedup(QUEUE, "t1"), at + b":" + b"a" * 64)
    await client.zadd(NAMES.waiting, {"t1": 1})
    await client.set(keys.blob(QUEUE, "t1", 0), "picture")
    assert [await cancels.withdraw(QUEUE, "t1") for _ in range(2)] == [True, False]
    assert await client.get(NAMES.counter) == b"0"
    assert not await client.exists(NAMES.waiting, keys.blob(QUEUE, "t1", 0))


class Listening:
    """A listener over leases that hold what a test says."""

    def __init__(self, settings: RedisSettings) -> None:
        self.leases = Leases(
            cast("Any", None), cast("Any", None), cast("Any", None), cast("Any", None), Metrics(), Clock()
        )
        self.listener = CancelListener(CancelNotices(settings), self.leases, Metrics())

    def run(self, task_id: str) -> InFlight:
        hold = InFlight(Delivery(QUEUE, "tasks", f"{task_id}-1", entry(task_id)))
        self.leases.add(hold)
        return hold


class Clock:
    """Stands still."""

    def time(self) -> float:
        return 0.0

    def monotonic(self) -> float:
        return 0.0


@pytest.mark.redis_forms("server")
async def test_whoever_runs_it_is_told(
    cancels: CancelRequests, client: Any, redis_settings: RedisSettings, wait_until: WaitUntil
) -> None:
    """Only the task that was meant, also after the connection was cut; idle nothing is asked."""
    there = Listening(redis_settings)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(there.listener.run())

        async def readers() -> list[Any]:
            return [c for c in await client.client_list() if c["name"] == "qstreamd-cancels" and c["cmd"] == "xread"]

        await asyncio.sleep(0.05)
        assert await readers() == []
        holds = {name: there.run(name) for name in ("t1", "t2", "t3")}
        await wait_until(readers, description="it listens")
        await cancels.notify("t1")
        await wait_until(lambda: holds["t1"].scope.interrupted, description="t1 is interrupted", within_s=1)
        assert isinstance(holds["t1"].scope.interrupted, TaskError)
        [reader] = await wait_until(readers, description="it listens again")
        await client.client_kill_filter(_id=reader["id"])
        await cancels.notify("t2")
        await wait_until(lambda: holds["t2"].scope.interrupted, description="t2 is interrupted", within_s=5)
        assert holds["t3"].scope.interrupted is None
        for hold in holds.values():
            there.leases.remove(hold)
        assert not there.leases.busy.is_set()
        running.cancel()
