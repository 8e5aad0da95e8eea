"""One consumer's view of a real server: imported by the `conftest.py` of every room that talks to Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from daemon.config import EventSettings, QueueSettings, RedisSettings
from daemon.domain.clock import SystemClock
from daemon.domain.messages import TaskMessage, WorkEntry, identity_of
from daemon.events.log import EventLog
from daemon.limiter.permits import RedisLimiter
from daemon.observability.metrics import Metrics
from daemon.ports import TaskIdentity
from daemon.queues.settlement import RedisSettlement
from daemon.queues.streams import WorkStreams
from daemon.redis_client import keys
from daemon.redis_client.batched_scripts import BatchedScripts
from daemon.redis_client.connection import connect
from tests.redis_clusters import EmbeddedCluster

QUEUE = "q_paid_stream"


def entry(task_id: str = "t1", queue: str = QUEUE) -> WorkEntry:
    """An accepted message without content."""
    message = TaskMessage(task_id=task_id, queue_id=queue, service_id="resume-review", user_id="u1", variables={"a": 1})
    return WorkEntry(message=message, sha256="0" * 64, accepted_at=1_700_000_000_000)


def task(task_id: str = "t1") -> TaskIdentity:
    """Its identity."""
    return identity_of(entry(task_id).message)


@dataclass
class Side:
    """One process' side: its consumer name, its adapters, what it parked."""

    client: Redis
    consumer: str
    parked: list[tuple[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scripts = BatchedScripts(self.client)
        self.work = WorkStreams(self.scripts, QueueSettings(), self.consumer)
        self.events = EventLog(self.scripts, EventSettings(), SystemClock(), self.consumer)
        self.limiter = RedisLimiter(self.scripts)
        self.settlement = RedisSettlement(
            self.scripts, self.work, self.events, self.limiter, Metrics(process=False),
            lambda queue, delay: self.parked.append((queue, delay)), SystemClock(),
        )  # fmt: skip

    async def add(self, task_id: str = "t1", *, place: bool = True) -> str:
        """Accept a task by hand: entry, place, counter."""
        names = keys.queue_keys(QUEUE)
        if place:
            await self.client.zadd(names.waiting, {task_id: 1})
            await self.client.incr(names.counter)
        added: Any = await self.client.xadd(names.tasks, {"task": msgspec.json.encode(entry(task_id))})
        return str(added.decode())


@pytest.fixture
def three_nodes(cluster_of: Callable[[str], EmbeddedCluster], redis_version: str) -> EmbeddedCluster:
    """The cluster of tests that run on one."""
    return cluster_of(redis_version)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test runs on a server and on a cluster, unless it names one: to look at the wire of a single server, say."""
    if "redis_form" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("redis_forms")
        metafunc.parametrize("redis_form", mark.args if mark else ("server", "cluster"), indirect=True)


@pytest.fixture
async def side(redis_settings: RedisSettings) -> AsyncIterator[Side]:
    """The consumer `a`, with its groups made."""
    async with connect(redis_settings) as client:
        made = Side(client, "a")
        await made.work.make_groups([QUEUE])
        yield made


@pytest.fixture
async def other(redis_settings: RedisSettings) -> AsyncIterator[Side]:
    """Another process, the consumer `b`."""
    async with connect(redis_settings) as client:
        yield Side(client, "b")
