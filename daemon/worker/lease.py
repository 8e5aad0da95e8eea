"""Leases of everything this process runs: one heartbeat renews entries, permits and rows together.

The heartbeat has its own connection, so a busy pool never delays it. A refused one, or none for the self-fence time,
interrupts the model call: whoever took the task over must not run beside us. Where Redis has forgotten an entry or a
permit, nobody has taken it: the row proves that the attempt is ours (docs/decisions/0009-ownership.md). Beats go on
through a drain, until the last attempt has ended.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from daemon.config import LeaseSettings
from daemon.domain.errors import LeaseLost, RedisAway, RedisFull, StoreAway
from daemon.domain.permits import Permit
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
        self.redis_forgot = asyncio.Event()  #: what Redis knew has vanished; cleared by whoever puts something back

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
                await self._renew_all()

    async def _renew_all(self) -> None:
        now = self._clock.monotonic()
        async with asyncio.TaskGroup() as renewals:
            entries = renewals.create_task(self._renew_entries(now), name="beat-redis")
            rows = renewals.create_task(self._renew_rows(), name="beat-ledger")
        vanished, lost_permits = entries.result()
        if vanished:
            self.redis_forgot.set()
        # FLUSHALL, a failover that lost writes, XGROUP DELCONSUMER: the row says whose the attempt is. Before the claim
        # there is no row; the claim will say it.
        kept = [h for h in vanished if h in rows.result() or h.attempt is None or h.row_released]
        _mark_renewed(kept, now)
        await self._retake_permits({token: h for token, h in lost_permits.items() if h.renewed_at >= now})

    async def _watch(self) -> None:
        """Beside the beats, not after them: one that does not come back must not keep us from stopping in time."""
        while True:
            await asyncio.sleep(self._settings.beat_s / 2)
            self._fence_overdue()

    async def _renew_entries(self, now: float) -> tuple[list[InFlight], dict[str, InFlight]]:
        """Those whose entry is pending to nobody, and by token those that lost a permit."""
        deliveries = self._renewable()
        by_stream: defaultdict[tuple[str, str], list[InFlight]] = defaultdict(list)
        for in_flight in deliveries:
            by_stream[in_flight.delivery.queue, in_flight.delivery.stream].append(in_flight)
        calls = [self._work.renew_call(q, s, [h.delivery.id for h in group]) for (q, s), group in by_stream.items()]
        vanished: list[InFlight] = []
        if not calls:
            return vanished, {}
        try:
            async with asyncio.timeout(self._settings.beat_s):
                replies = await self._scripts.run_each(calls)
                if groupless := {q for (q, _), r in zip(by_stream, replies, strict=True) if isinstance(r, NoGroup)}:
                    # With all slots taken nothing is read that would find out, and until then no ack gets through.
                    await self._work.make_groups(groupless)
                lost_permits = await self._renew_permits(deliveries)
        except (RedisAway, RedisFull, TimeoutError) as error:
            self._renewal_failed(error, len(deliveries))
            return vanished, {}
        for group, reply in zip(by_stream.values(), replies, strict=True):
            if isinstance(reply, NoGroup):
                vanished += group
            elif not isinstance(reply, Exception):
                taken, gone = ({entry_id.decode() for entry_id in ids} for ids in reply)
                self._fence([h for h in group if h.delivery.id in taken], "the entry belongs to another consumer")
                vanished += [h for h in group if h.delivery.id in gone]
                _mark_renewed([h for h in group if h.delivery.id not in taken | gone], now)
        return vanished, lost_permits

    def _renewal_failed(self, error: Exception, holds: int) -> None:
        self._metrics.redis_errors.labels("away").inc()
        _log.warning("lease.renewal_failed", error=type(error).__name__, holds=holds)

    def _renewable(self) -> list[InFlight]:
        """What is renewed: not what is settled.

        And not a call that outlived its own clocks (its vendor ignores cancels).
        """
        now = self._clock.monotonic()
        return [h for h in self._in_flight.values() if not h.settled and now < h.hard_deadline]

    async def _renew_permits(self, deliveries: Iterable[InFlight]) -> dict[str, InFlight]:
        """Those that lost a permit, by their token."""
        held = {h.held.token: h for h in deliveries if h.held.token and h.held.permits}
        renewed = {token: h.held.permits for token, h in held.items()}
        lost = await self._limiter.renew(list(renewed.items()), int(self._settings.lease_s * 1000))
        # The others were released, or are on the way to another model, while the beat was under way.
        return {token: held[token] for token in lost if _holds(held[token], token, renewed[token])}

    async def _retake_permits(self, lost: Mapping[str, InFlight]) -> None:
        """Redis lost permits (a flush, a stall longer than the lease) of attempts that are ours: take them again."""
        try:
            async with asyncio.timeout(self._settings.beat_s):
                for token, in_flight in lost.items():
                    permits = in_flight.held.permits
                    if not _holds(in_flight, token, permits):
                        continue
                    await self._limiter.retake(token, permits, int(self._settings.lease_s * 1000))
                    if not _holds(in_flight, token, permits):  # released meanwhile
                        await self._limiter.release(token, [p for p in permits if p not in in_flight.held.permits])
        except (RedisAway, RedisFull, TimeoutError) as error:
            self._renewal_failed(error, len(lost))

    async def _renew_rows(self) -> set[InFlight]:
        """Those whose row is known to be ours."""
        claimed = {h.task_id: h for h in self._in_flight.values() if h.attempt is not None and not h.row_released}
        attempts = {t: h.attempt for t, h in claimed.items() if h.attempt is not None}
        if not claimed:
            return set()
        try:
            async with asyncio.timeout(self._settings.beat_s):
                lost = await self._ledger.heartbeat(list(attempts.items()), self._work.consumer)
        except (StoreAway, TimeoutError) as error:
            self._metrics.postgres_errors.labels("away").inc()
            _log.warning("heartbeat.failed", error=type(error).__name__, holds=len(claimed))
            return set()
        gone = [claimed[t] for t in lost if not claimed[t].row_released and claimed[t].attempt == attempts[t]]
        self._fence(gone, "the attempt is not ours any more")
        return {h for task_id, h in claimed.items() if task_id not in lost}

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


def _holds(in_flight: InFlight, token: str, permits: Sequence[Permit]) -> bool:
    return in_flight.held.token == token and in_flight.held.permits is permits


def _mark_renewed(deliveries: Iterable[InFlight], now: float) -> None:
    for in_flight in deliveries:
        in_flight.lease_renewed(now)
