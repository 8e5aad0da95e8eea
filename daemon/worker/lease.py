"""Leases of everything this process runs: one beat renews entries, guards and Postgres heartbeats together.

The beat has its own connection, so a busy pool never delays it. A refused beat, or none for the self-fence time,
interrupts the model call: whoever took the task over must not run beside us. Beats go on through a drain, until the
last attempt has ended.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Iterable

from daemon.config import LeaseSettings
from daemon.domain.errors import LeaseLost, RedisAway, RedisFull, StoreAway
from daemon.limiter.permits import RedisLimiter
from daemon.observability.logging import logger
from daemon.observability.metrics import Metrics
from daemon.pipeline.in_flight import InFlight
from daemon.ports import Clock, Ledger
from daemon.queues.streams import WorkStreams
from daemon.redis_client.connection import NoGroup
from daemon.redis_client.scripts import Scripts

_log = logger(__name__)


class Leases:
    """The register of running deliveries and their beat."""

    def __init__(
        self,
        heartbeat_scripts: Scripts,
        work: WorkStreams,
        ledger: Ledger,
        settings: LeaseSettings,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._scripts = heartbeat_scripts
        self._limiter = RedisLimiter(heartbeat_scripts)
        self._work = work
        self._ledger = ledger
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._in_flight: dict[tuple[str, str, str], InFlight] = {}
        self.busy = asyncio.Event()  #: set while something runs

    def __len__(self) -> int:
        return len(self._in_flight)

    def deliveries(self) -> list[InFlight]:
        """Everything that runs now."""
        return list(self._in_flight.values())

    def runs(self, queue: str, stream: str, entry_id: str) -> bool:
        """Whether this process runs that entry now."""
        return (queue, stream, entry_id) in self._in_flight

    def add(self, in_flight: InFlight) -> None:
        """Beat for this delivery from now on."""
        d = in_flight.delivery
        self._in_flight[d.queue, d.stream, d.id] = in_flight
        in_flight.lease_renewed(self._clock.monotonic())
        self.busy.set()

    def remove(self, in_flight: InFlight) -> None:
        """Its attempt has ended, one way or another."""
        d = in_flight.delivery
        self._in_flight.pop((d.queue, d.stream, d.id), None)
        if not self._in_flight:
            self.busy.clear()

    async def run(self, progress: Callable[[], None]) -> None:
        """Beat and watch over ourselves until cancelled."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._heartbeat(progress), name="beats")
            loops.create_task(self._watch(), name="self-fence")

    async def _heartbeat(self, progress: Callable[[], None]) -> None:
        """Jittered, so that the processes of a host do not beat in step."""
        while True:
            progress()
            await asyncio.sleep(self._settings.beat_s * random.uniform(0.85, 1.0))
            if self._in_flight:
                async with asyncio.TaskGroup() as renewals:
                    renewals.create_task(self._renew_redis(), name="beat-redis")
                    renewals.create_task(self._renew_ledger(), name="beat-ledger")

    async def _watch(self) -> None:
        """Beside the beats, not after them: one that does not come back must not keep us from stopping in time."""
        while True:
            await asyncio.sleep(self._settings.beat_s / 2)
            self._fence_overdue()

    async def _renew_redis(self) -> None:
        deliveries = self._renewable()
        if not deliveries:
            return
        by_stream: defaultdict[tuple[str, str], list[InFlight]] = defaultdict(list)
        for in_flight in deliveries:
            by_stream[in_flight.delivery.queue, in_flight.delivery.stream].append(in_flight)
        calls = [self._work.renew_call(q, s, [h.delivery.id for h in group]) for (q, s), group in by_stream.items()]
        now = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._settings.beat_s):
                replies = await self._scripts.run_each(calls)
                await self._renew_permits(deliveries)
        except (RedisAway, RedisFull, TimeoutError) as error:
            self._metrics.redis_errors.labels("away").inc()
            _log.warning("lease.renewal_failed", error=type(error).__name__, holds=len(deliveries))
            return
        for group, reply in zip(by_stream.values(), replies, strict=True):
            if isinstance(reply, NoGroup):
                # FLUSHALL: nobody else can own these entries any more. Postgres still fences, and its heartbeat keeps
                # the sweeper away, so the answers that are under way are not thrown away.
                _mark_renewed(group, now)
            elif not isinstance(reply, Exception):
                lost = {entry_id.decode() for entry_id in reply}
                self._fence([h for h in group if h.delivery.id in lost], "the entry belongs to another consumer")
                _mark_renewed([h for h in group if h.delivery.id not in lost], now)

    def _renewable(self) -> list[InFlight]:
        """What is renewed: not what is settled.

        And not a call that outlived its own clocks (its vendor ignores cancels).
        """
        now = self._clock.monotonic()
        return [h for h in self._in_flight.values() if not h.settled and now < h.hard_deadline]

    async def _renew_permits(self, deliveries: Iterable[InFlight]) -> None:
        lease_ms = int(self._settings.lease_s * 1000)
        held = {h.held.token: h for h in deliveries if h.held.token and h.held.permits}
        renewed = {token: h.held.permits for token, h in held.items()}
        for token in await self._limiter.renew(list(renewed.items()), lease_ms):
            in_flight = held[token]
            permits = renewed[token]
            if in_flight.held.token != token or in_flight.held.permits is not permits:
                continue  # released, or on the way to another model, while the beat was under way
            # Redis lost the place (a flush, a stall longer than the lease). Taken again if there is room, else we are
            # one too many.
            if await self._limiter.retake(token, permits, lease_ms) is not None:
                self._fence([in_flight], "a guard place ran out")
            elif in_flight.held.token != token or in_flight.held.permits is not permits:
                await self._limiter.release(token, [p for p in permits if p not in in_flight.held.permits])

    async def _renew_ledger(self) -> None:
        claimed = {h.task_id: h for h in self._in_flight.values() if h.attempt is not None and not h.row_released}
        attempts = {t: h.attempt for t, h in claimed.items() if h.attempt is not None}
        if not claimed:
            return
        try:
            async with asyncio.timeout(self._settings.beat_s):
                lost = await self._ledger.heartbeat(list(attempts.items()), self._work.consumer)
        except (StoreAway, TimeoutError) as error:
            self._metrics.postgres_errors.labels("away").inc()
            _log.warning("heartbeat.failed", error=type(error).__name__, holds=len(claimed))
            return
        gone = [claimed[t] for t in lost if not claimed[t].row_released and claimed[t].attempt == attempts[t]]
        self._fence(gone, "the attempt is not ours any more")

    def _fence(self, deliveries: Iterable[InFlight], why: str) -> None:
        for in_flight in deliveries:
            d = in_flight.delivery
            if in_flight.settled or not self.runs(d.queue, d.stream, d.id):
                continue  # it ended while the beat was under way
            self._metrics.fenced.labels("heartbeat").inc()
            _log.warning("lease.lost", task_id=in_flight.task_id, attempt=in_flight.attempt, why=why)
            in_flight.scope.interrupt(LeaseLost(why))

    def _fence_overdue(self) -> None:
        limit = self._clock.monotonic() - self._settings.self_fence_s
        overdue = [h for h in self._in_flight.values() if h.renewed_at < limit and h.scope.interrupted is None]
        self._fence(overdue, f"no good beat for {self._settings.self_fence_s:g} s")


def _mark_renewed(deliveries: Iterable[InFlight], now: float) -> None:
    for in_flight in deliveries:
        in_flight.lease_renewed(now)
