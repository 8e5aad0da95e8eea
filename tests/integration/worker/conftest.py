"""One process' workers on a real server, with leases of about a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, cast

import msgspec
import pytest

from daemon.config import EventSettings, GuardSettings, LeaseSettings, QueueSettings, RedisSettings, RetrySettings
from daemon.domain.clock import SystemClock
from daemon.domain.messages import TaskMessage, WorkEntry
from daemon.domain.queues import Mode, QueueSpec, Tier
from daemon.events.log import EventLog
from daemon.limiter.permits import RedisLimiter
from daemon.observability.metrics import Metrics
from daemon.pipeline.in_flight import InFlight
from daemon.ports import Delivery, Ledger
from daemon.queues.settlement import RedisSettlement
from daemon.queues.streams import WorkStreams
from daemon.redis_client import keys
from daemon.redis_client.batched_scripts import BatchedScripts
from daemon.redis_client.connection import connect
from daemon.redis_client.scripts import Scripts
from daemon.worker.consumer import QueueConsumer
from daemon.worker.lease import Leases
from daemon.worker.proof_of_death import ProofsOfDeath, own_facts
from daemon.worker.reclaim import Reclaimer
from daemon.worker.retry_scheduler import RetryScheduler

QUEUE: Final = "q_paid_stream"
NAMES: Final = keys.queue_keys(QUEUE)
LEASE: Final = LeaseSettings(
    lease_s=1.2, beat_s=0.2, self_fence_s=0.8, liveness_s=0.1, liveness_ttl_s=0.5, sweep_s=600, compare_s=0.2
)


class Heartbeats:
    """As much of the ledger as a lease needs."""

    def __init__(self) -> None:
        self.asked: list[list[tuple[str, int]]] = []
        self.owners: set[str] = set()
        self.lost: set[str] = set()
        self.error: Exception | None = None

    async def heartbeat(self, attempts: Sequence[tuple[str, int]], owner: str) -> set[str]:
        self.asked.append(list(attempts))
        self.owners.add(owner)
        if self.error is not None:
            raise self.error
        return self.lost & {task_id for task_id, _ in attempts}


class Crew:
    """The workers of one process under a consumer name. Attempts last until `gate` is set, then ack."""

    def __init__(self, stack: AsyncExitStack, settings: RedisSettings, beat_settings: RedisSettings, name: str) -> None:
        self.name, self.settings = name, settings
        self.client, self.heartbeat_client = connect(settings), connect(beat_settings, size=1)
        stack.push_async_callback(self.client.aclose)
        stack.push_async_callback(self.heartbeat_client.aclose)
        self.metrics = Metrics(process=False)
        self.scripts, self.heartbeat_scripts = BatchedScripts(self.client), Scripts(self.heartbeat_client)
        reads = connect(settings, retries=0)
        stack.push_async_callback(reads.aclose)
        self.work = WorkStreams(self.scripts, QueueSettings(), name, reads=Scripts(reads))
        self.limiter = RedisLimiter(self.scripts, GuardSettings())
        self.ledger = Heartbeats()
        self.clock = SystemClock()
        self.leases = Leases(
            self.heartbeat_scripts, self.work, cast("Ledger", self.ledger), LEASE, self.metrics, self.clock
        )
        spec = QueueSpec(QUEUE, Tier.PAID, Mode.STREAM, 2)
        self.consumer = QueueConsumer(
            spec, self.work, self.client, self.leases, settings, LEASE, self.metrics, self.attempt
        )
        self.lost: list[tuple[str, list[str]]] = []
        self.retry_scheduler = RetryScheduler(self.work, [QUEUE], RetrySettings(), self.metrics, self._lost)
        self.changed: list[list[str]] = []
        self.proofs = ProofsOfDeath(name, own_facts())
        self.freed: list[tuple[list[str], list[str]]] = []  #: dead owners, tasks that were theirs
        self.reclaimer = Reclaimer(
            self.heartbeat_scripts, self.work, {QUEUE: self.consumer}, LEASE, 0.0, self.metrics,
            changed=self._changed, deleted=self._lost, proofs=self.proofs, free_permits=self._freed,
        )  # fmt: skip
        events = EventLog(self.scripts, EventSettings(), self.clock)
        self.settlement = RedisSettlement(
            self.scripts, self.work, events, self.limiter, self.metrics, self.retry_scheduler.snoozed, self.clock
        )
        self.gate = asyncio.Event()
        self.gate.set()
        self.began: list[str] = []
        self.holds: list[InFlight] = []
        self.ended: list[str] = []
        self.cut: list[str] = []

    async def attempt(self, in_flight: InFlight) -> None:
        """Wait for the gate, settle, and note it all."""
        self.began.append(in_flight.task_id)
        self.holds.append(in_flight)
        try:
            await self.gate.wait()
            if in_flight.scope.interrupted is None:
                await self.settlement.ack(in_flight.delivery)
                in_flight.settled = True
            self.ended.append(in_flight.task_id)
        except asyncio.CancelledError:
            self.cut.append(in_flight.task_id)
            raise

    async def _lost(self, queue: str, ids: list[str]) -> None:
        self.lost.append((queue, ids))

    async def _freed(self, owners: Iterable[str], deliveries: Sequence[Delivery]) -> None:
        self.freed.append((sorted(owners), [d.entry.message.task_id for d in deliveries if d.entry]))

    def _changed(self, queues: Iterable[str]) -> None:
        self.changed.append(sorted(queues))

    @asynccontextmanager
    async def at_work(self, *parts: str) -> AsyncIterator[None]:
        """These loops run: consumer, leases, mover, reclaimer. A clean stop at the end."""
        loops: dict[str, Callable[[], Any]] = {
            "leases": lambda: self.leases.run(lambda: None),
            "mover": self.retry_scheduler.run,
            "reclaimer": lambda: self.reclaimer.run(lambda: None),
        }
        async with asyncio.TaskGroup() as group:
            background = [group.create_task(loops[part]()) for part in parts if part != "consumer"]
            reader = group.create_task(self.consumer.run()) if "consumer" in parts else None
            try:
                yield
            finally:
                self.gate.set()
                if reader is not None:
                    await self.consumer.stop()
                    await asyncio.wait([reader], timeout=5)
                    reader.cancel()
                for task in background:
                    task.cancel()

    async def add(self, *task_ids: str) -> list[str]:
        """Accepted entries."""
        added = []
        for task_id in task_ids:
            message = TaskMessage(task_id=task_id, queue_id=QUEUE, service_id="echo", user_id="u1", variables={"a": 1})
            entry = WorkEntry(message=message, sha256="0" * 64, accepted_at=1_700_000_000_000)
            entry_id: Any = await self.client.xadd(NAMES.tasks, {"task": msgspec.json.encode(entry)})
            added.append(str(entry_id.decode()))
        return added

    async def pending(self, consumer: str | None = None) -> int:
        """Entries of both streams that somebody (or this consumer) has."""
        found = 0
        for stream in (NAMES.tasks, NAMES.ready):
            rows: Any = await self.client.xpending_range(stream, keys.GROUP, "-", "+", 1000)
            found += sum(consumer in (None, row["consumer"].decode()) for row in rows)
        return found

    async def waiting(self) -> int:
        """Entries in both streams, pending or not."""
        return int(await self.client.xlen(NAMES.tasks)) + int(await self.client.xlen(NAMES.ready))


NewCrew = Callable[..., Crew]


@pytest.fixture
async def new_crew(redis_settings: RedisSettings) -> AsyncIterator[NewCrew]:
    """Makes a crew: `new_crew("a")`; over other settings for its connections where a proxy stands in between."""
    async with AsyncExitStack() as stack:

        def make(name: str, settings: RedisSettings | None = None, beat: RedisSettings | None = None) -> Crew:
            return Crew(stack, settings or redis_settings, beat or settings or redis_settings, name)

        await make("maker").work.make_groups([QUEUE])
        yield make


@pytest.fixture
async def crew(new_crew: NewCrew) -> Crew:
    """The process `a`."""
    return new_crew("a")
