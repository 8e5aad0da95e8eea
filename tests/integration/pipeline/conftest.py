"""`run` on a real Redis and a real Postgres, with a provider that says what it is told to."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from daemon.config import (
    EventSettings,
    GuardSettings,
    LeaseSettings,
    PostgresSettings,
    QueueSettings,
    RedisSettings,
    RetrySettings,
)
from daemon.domain.clock import SystemClock
from daemon.domain.errors import TaskError
from daemon.domain.events import Event
from daemon.domain.messages import TaskMessage, WorkEntry
from daemon.domain.model_io import ModelRequest, Picture, Piece
from daemon.domain.queues import DEFAULT_QUEUES, Tier
from daemon.events.deltas import Deltas
from daemon.events.log import EventLog
from daemon.limiter.permits import RedisLimiter
from daemon.observability.metrics import Metrics
from daemon.pipeline.dependencies import Dependencies
from daemon.pipeline.executor import execute
from daemon.pipeline.in_flight import InFlight
from daemon.pipeline.outcome import Outcome
from daemon.pipeline.retry_budget import RetryBudget
from daemon.ports import Blobs, Provider
from daemon.queues.admission import Admission
from daemon.queues.settlement import RedisSettlement
from daemon.queues.streams import Reclaimed, WorkStreams
from daemon.redis_client import keys
from daemon.redis_client.batched_scripts import BatchedScripts
from daemon.redis_client.connection import connect
from daemon.redis_client.scripts import Scripts
from daemon.services import Model, Service, ServiceCatalog
from daemon.store.batching import BatchingLedger
from daemon.store.pool import Pool
from daemon.store.templates import PostgresTemplates
from tests.fakes import Recorder, ScriptedProvider, Step
from tests.waiting import wait_until

QUEUE = "q_paid_stream"
NAMES = keys.queue_keys(QUEUE)
LEASE_S = 0.3
CLOCK = SystemClock()

ECHO = Service(
    id="echo", title="Echo", system="", prompt="{{ text }}", template=None, takes_images=False,
    models=MappingProxyType({Tier.PAID: ("m",)}), first_token_s=2, idle_s=2, total_s=5, attempts=3,
)  # fmt: skip
JSON_TWO = replace(
    ECHO, id="json_two", output="json", max_output_tokens=64, models=MappingProxyType({Tier.PAID: ("m", "n")})
)
TWO = replace(ECHO, id="two", models=MappingProxyType({Tier.PAID: ("m", "n")}))
BOOK = ServiceCatalog(
    source="services.toml",
    models=MappingProxyType(
        {id_: Model(id_, "deepseek", f"{id_}-1", concurrency=MappingProxyType({Tier.PAID: 100})) for id_ in ("m", "n")}
    ),
    services=MappingProxyType(
        {
            s.id: s
            for s in (
                ECHO,
                replace(ECHO, id="json", output="json"),
                replace(ECHO, id="once", attempts=1),
                TWO,
                JSON_TWO,
            )
        }
    ),
    queues=DEFAULT_QUEUES,
)


def message(task_id: str = "t1", **fields: Any) -> TaskMessage:
    """A good message; its user and its prompt have the task's name."""
    given = {"queue_id": QUEUE, "service_id": "echo", "user_id": f"u_{task_id}", "variables": {"text": task_id}}
    return TaskMessage(task_id=task_id, **{**given, **fields})


class NoBlobs(Blobs):
    """No task here brings images."""

    async def read(self, reference: str, user_id: str) -> Picture:
        raise AssertionError(reference)

    async def drop(self, references: Sequence[str], user_id: str) -> None:
        raise AssertionError(references)


class PerTask(Provider):
    """A scripted provider for each task, told apart by the prompt."""

    def __init__(self) -> None:
        self.of: defaultdict[str, ScriptedProvider] = defaultdict(ScriptedProvider)

    def generate(self, request: ModelRequest) -> AsyncGenerator[Piece, None]:
        """The script of that task."""
        return self.of[request.prompt].generate(request)

    async def aclose(self) -> None:
        """Nothing to close."""


class Process:
    """One daemon's surroundings: its consumer, its adapters, its calls."""

    def __init__(self, client: Redis, pool: Pool, name: str, provider: PerTask) -> None:
        self.name, self.client, self.pool, self.provider = name, client, pool, provider
        self.recorder = Recorder()
        self._running = 0
        self.scripts = BatchedScripts(client)
        self.metrics = Metrics(process=False)
        self.work = WorkStreams(self.scripts, QueueSettings(), name)
        self.events = EventLog(self.scripts, EventSettings(), CLOCK, name)
        self.limiter = RedisLimiter(self.scripts, GuardSettings(breaker_failures=1000))
        self.ledger = BatchingLedger(pool)
        self.deltas = Deltas(self.scripts, self.events, EventSettings(), self.metrics)
        self.parked: list[float] = []
        settlement = RedisSettlement(
            self.scripts, self.work, self.events, self.limiter, self.metrics, lambda _, s: self.parked.append(s), CLOCK
        )
        wrap = self.recorder.wrap
        self.world = Dependencies(
            ledger=wrap("ledger", self.ledger), limiter=wrap("limiter", self.limiter),
            settlement=wrap("settlement", settlement),
            deltas=self.deltas, templates=PostgresTemplates(pool, CLOCK), blobs=NoBlobs(),
            provider=self._provider, catalog=lambda: BOOK, clock=CLOCK, random=lambda: 0.5,
            owner=name, limiter_settings=GuardSettings(),
            retry=RetrySettings(base_s=0.002, cap_s=0.01, guard_s=0.002, defer_s=0.002),
            lease=LeaseSettings(lease_s=LEASE_S), budget=RetryBudget(), hold_result_s=1.0,
        )  # fmt: skip

    def _provider(self, name: str, _proxy: str = "") -> Provider:
        if name != "deepseek":
            raise TaskError(detail="no key")
        return self.provider

    def with_(self, **parts: Any) -> None:
        """Change parts of the world."""
        self.world = replace(self.world, **parts)

    async def run(self, in_flight: InFlight) -> Outcome:
        """One delivery to its end, with the deltas' loop beside it; both are gone afterwards."""
        if not self._running:
            self._flushing = asyncio.ensure_future(self.deltas.run())  # noqa: TID251  # awaited below
        self._running += 1
        try:
            return await execute(self.world, in_flight)
        finally:
            self._running -= 1
            if not self._running:
                self._flushing.cancel()
                await asyncio.gather(self._flushing, return_exceptions=True)

    def start(self, in_flight: InFlight) -> asyncio.Task[Outcome]:
        """The same, begun; the test awaits it."""
        return asyncio.ensure_future(self.run(in_flight))  # noqa: TID251  # kept by the caller

    async def fetch(self) -> InFlight:
        """The next new entry."""
        return InFlight((await self.work.fetch(QUEUE, 1))[0])

    async def take_over(self) -> list[InFlight]:
        """Whatever is pending to anybody, as if all leases had run out; what is due; what is new."""
        await self.pool.fetch("UPDATE qstreamd.tasks SET heartbeat_at = '-infinity' WHERE state = 'running'")
        swept = await wait_until(self._sweep, description="our turn to sweep")
        await self.work.promote(QUEUE, 100)
        return [InFlight(d) for d in [*swept.deliveries, *await self.work.fetch(QUEUE, 100)]]

    async def _sweep(self) -> Reclaimed | None:
        swept = await self.work.reclaim(QUEUE, 0, 100, ("0-0", "0-0"), 1)
        return None if swept.elsewhere else swept


@dataclass
class Bench:
    """The servers and everything that may be asked of them."""

    client: Redis
    pool: Pool
    provider: PerTask = field(default_factory=PerTask)

    def process(self, name: str = "a") -> Process:
        """A daemon under that consumer name."""
        return Process(self.client, self.pool, name, self.provider)

    def plan(self, task_id: str, *scripts: Sequence[Step]) -> ScriptedProvider:
        """What the model will say to this task; unplanned tasks get an answer."""
        self.provider.of[task_id] = planned = ScriptedProvider(*scripts)
        return planned

    def calls(self, task_id: str = "t1") -> int:
        """How often a model was called for this task."""
        return len(self.provider.of[task_id].calls)

    async def accept(self, task: TaskMessage, sha256: str = "") -> None:
        """As the relay does: entry, place, `queued` untold."""
        admission = Admission(Scripts(self.client), QueueSettings(), CLOCK)
        await admission.accept(task, sha256 or f"sha-{task.task_id}", 1000, {})

    async def add_raw(self, entry: WorkEntry) -> None:
        """An entry that no relay would have accepted."""
        await self.client.xadd(NAMES.tasks, {"task": msgspec.json.encode(entry)})

    async def finish_all(self, process: Process, rounds_max: int = 40) -> list[Outcome]:
        """Take over and run until nothing is left in Redis; the outcomes in order."""
        outcomes: list[Outcome] = []
        for _ in range(rounds_max):
            outcomes += await asyncio.gather(*(process.run(in_flight) for in_flight in await process.take_over()))
            if not await self.left():
                return outcomes
            await asyncio.sleep(0.003)
        waiting = await self.client.zrange(NAMES.waiting, 0, -1)
        raise AssertionError(f"still there: {await self.left()}; waiting: {waiting}")

    async def left(self) -> dict[str, int]:
        """What of the queue's work is still in Redis."""
        c = self.client
        found = {
            "tasks": await c.xlen(NAMES.tasks), "ready": await c.xlen(NAMES.ready), "retry": await c.zcard(NAMES.retry),
            "held": await c.hlen(NAMES.held), "waiting": await c.zcard(NAMES.waiting),
            "counter": int(await c.get(NAMES.counter) or 0),
        }  # fmt: skip
        return {name: count for name, count in found.items() if count}

    async def events(self, task_id: str = "t1") -> list[Event]:
        """The task's stream."""
        return await EventLog(Scripts(self.client), EventSettings(), CLOCK).read(task_id)

    async def story(self, task_id: str = "t1") -> list[str]:
        """Its event types, token batches left out since their number is chance; an error with its code."""
        return [
            f"error {e.data['code']}" if e.type == "error" else str(e.type)
            for e in await self.events(task_id)
            if e.type != "token_batch"
        ]

    async def row(self, task_id: str = "t1") -> Any:
        """The row of `tasks`; None when there is none."""
        rows = await self.pool.fetch("SELECT * FROM qstreamd.tasks WHERE task_id = $1", task_id)
        return rows[0] if rows else None

    async def attempts(self, task_id: str = "t1") -> list[tuple[int, str | None, str | None]]:
        """(attempt, outcome, code) of each attempt."""
        rows = await self.pool.fetch(
            "SELECT attempt, outcome, code FROM qstreamd.attempts WHERE task_id = $1 ORDER BY attempt", task_id
        )
        return [(r["attempt"], r["outcome"], r["code"]) for r in rows]

    async def results(self, task_id: str = "t1") -> Sequence[Any]:
        """The rows of `results`."""
        return await self.pool.fetch("SELECT * FROM qstreamd.results WHERE task_id = $1", task_id)

    async def letters(self) -> list[dict[str, str]]:
        """The dead letters."""
        entries: Any = await self.client.xrange(NAMES.dead)
        return [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in entries]

    async def permits(self) -> dict[str, int]:
        """Guard places that somebody holds now."""
        return {
            key.decode(): size
            for pattern in ("{guard}:user:*", "{guard}:model:*")
            async for key in self.client.scan_iter(pattern)
            if (size := await self.client.zcard(key))
        }


@pytest.fixture
async def bench(redis_settings: RedisSettings, postgres_settings: PostgresSettings) -> AsyncIterator[Bench]:
    """Empty servers with the queue's groups made."""
    pool = await Pool(postgres_settings).start()
    async with connect(redis_settings) as client:
        made = Bench(client, pool)
        await made.process().work.make_groups([QUEUE])
        yield made
    await pool.close()
