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
from daemon.limiter.permits import RedisGuards
from daemon.observability.logging import logger
from daemon.observability.metrics import Metrics
from daemon.pipeline.in_flight import Hold
from daemon.ports import Clock, Ledger
from daemon.queues.streams import Work
from daemon.redis_client.connection import NoGroup
from daemon.redis_client.scripts import Scripts

_log = logger(__name__)


class Leases:
    """The register of running deliveries and their beat."""

    def __init__(
        self,
        beat_scripts: Scripts,
        work: Work,
        ledger: Ledger,
        settings: LeaseSettings,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._scripts = beat_scripts
        self._guards = RedisGuards(beat_scripts)
        self._work = work
        self._ledger = ledger
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._holds: dict[tuple[str, str, str], Hold] = {}
        self.busy = asyncio.Event()  #: set while something runs

    def __len__(self) -> int:
        return len(self._holds)

    def holds(self) -> list[Hold]:
        """Everything that runs now."""
        return list(self._holds.values())

    def runs(self, queue: str, stream: str, entry_id: str) -> bool:
        """Whether this process runs that entry now."""
        return (queue, stream, entry_id) in self._holds

    def add(self, hold: Hold) -> None:
        """Beat for this delivery from now on."""
        d = hold.delivery
        self._holds[d.queue, d.stream, d.id] = hold
        hold.lease_renewed(self._clock.monotonic())
        self.busy.set()

    def remove(self, hold: Hold) -> None:
        """Its attempt has ended, one way or another."""
        d = hold.delivery
        self._holds.pop((d.queue, d.stream, d.id), None)
        if not self._holds:
            self.busy.clear()

    async def run(self, progress: Callable[[], None]) -> None:
        """Beat and watch over ourselves until cancelled."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._beat(progress), name="beats")
            loops.create_task(self._watch(), name="self-fence")

    async def _beat(self, progress: Callable[[], None]) -> None:
        """Jittered, so that the processes of a host do not beat in step."""
        while True:
            progress()
            await asyncio.sleep(self._settings.beat_s * random.uniform(0.85, 1.0))
            if self._holds:
                async with asyncio.TaskGroup() as beats:
                    beats.create_task(self._beat_redis(), name="beat-redis")
                    beats.create_task(self._beat_ledger(), name="beat-ledger")

    async def _watch(self) -> None:
        """Beside the beats, not after them: one that does not come back must not keep us from stopping in time."""
        while True:
            await asyncio.sleep(self._settings.beat_s / 2)
            self._fence_overdue()

    async def _beat_redis(self) -> None:
        holds = self._beating()
        if not holds:
            return
        by_stream: defaultdict[tuple[str, str], list[Hold]] = defaultdict(list)
        for hold in holds:
            by_stream[hold.delivery.queue, hold.delivery.stream].append(hold)
        calls = [self._work.beat_call(q, s, [h.delivery.id for h in group]) for (q, s), group in by_stream.items()]
        now = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._settings.beat_s):
                replies = await self._scripts.run_each(calls)
                await self._renew_guards(holds)
        except (RedisAway, RedisFull, TimeoutError) as error:
            self._metrics.redis_errors.labels("away").inc()
            _log.warning("lease.renewal_failed", error=type(error).__name__, holds=len(holds))
            return
        for group, reply in zip(by_stream.values(), replies, strict=True):
            if isinstance(reply, NoGroup):
                # FLUSHALL: nobody else can own these entries any more. Postgres still fences, and its heartbeat keeps
                # the sweeper away, so the answers that are under way are not thrown away.
                _keep(group, now)
            elif not isinstance(reply, Exception):
                lost = {entry_id.decode() for entry_id in reply}
                self._lose([h for h in group if h.delivery.id in lost], "the entry belongs to another consumer")
                _keep([h for h in group if h.delivery.id not in lost], now)

    def _beating(self) -> list[Hold]:
        """What is renewed: not what is settled.

        And not a call that outlived its own clocks (its vendor ignores cancels).
        """
        now = self._clock.monotonic()
        return [h for h in self._holds.values() if not h.settled and now < h.hard_deadline]

    async def _renew_guards(self, holds: Iterable[Hold]) -> None:
        lease_ms = int(self._settings.lease_s * 1000)
        held = {h.held.token: h for h in holds if h.held.token and h.held.permits}
        renewed = {member: h.held.permits for member, h in held.items()}
        for member in await self._guards.renew(list(renewed.items()), lease_ms):
            hold = held[member]
            places = renewed[member]
            if hold.held.token != member or hold.held.permits is not places:
                continue  # released, or on the way to another model, while the beat was under way
            # Redis lost the place (a flush, a stall longer than the lease). Taken again if there is room, else we are
            # one too many.
            if await self._guards.acquire(member, places, lease_ms) is not None:
                self._lose([hold], "a guard place ran out")
            elif hold.held.token != member or hold.held.permits is not places:
                await self._guards.release(member, [place for place in places if place not in hold.held.permits])

    async def _beat_ledger(self) -> None:
        claimed = {h.task_id: h for h in self._holds.values() if h.attempt is not None and not h.row_released}
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
        self._lose(gone, "the attempt is not ours any more")

    def _lose(self, holds: Iterable[Hold], why: str) -> None:
        for hold in holds:
            d = hold.delivery
            if hold.settled or not self.runs(d.queue, d.stream, d.id):
                continue  # it ended while the beat was under way
            self._metrics.fenced.labels("heartbeat").inc()
            _log.warning("lease.lost", task_id=hold.task_id, attempt=hold.attempt, why=why)
            hold.scope.interrupt(LeaseLost(why))

    def _fence_overdue(self) -> None:
        limit = self._clock.monotonic() - self._settings.self_fence_s
        overdue = [h for h in self._holds.values() if h.renewed_at < limit and h.scope.interrupted is None]
        self._lose(overdue, f"no good beat for {self._settings.self_fence_s:g} s")


def _keep(holds: Iterable[Hold], now: float) -> None:
    for hold in holds:
        hold.lease_renewed(now)
