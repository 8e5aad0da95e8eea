"""Takes over the work of consumers that went silent.

One shared liveness record tells who reads what, so an idle daemon asks once in some seconds instead of sweeping
every stream. A sweep runs at start, for queues with a lapsed record, after trouble, and unasked once in a while in
case the record itself was lost.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from daemon.config import LeaseSettings
from daemon.domain.errors import RedisAway, RedisFull
from daemon.observability.logging import logger
from daemon.observability.metrics import Metrics
from daemon.queues.streams import Liveness, WorkStreams
from daemon.redis_client.connection import NoGroup
from daemon.redis_client.scripts import Scripts
from daemon.worker.consumer import QueueConsumer

_log = logger(__name__)

#: in one flush: ten thousand dead, each asked after alone, kept the living from their work for minutes
DELETED_AT_ONCE: Final = 100


class Reclaimer:
    """Liveness and sweeps of one process. `changed` is told when the set of living consumers changes."""

    def __init__(
        self,
        scripts: Scripts,
        work: WorkStreams,
        consumers: Mapping[str, QueueConsumer],
        settings: LeaseSettings,
        delete_after_s: float,
        metrics: Metrics,
        changed: Callable[[Iterable[str]], None],
        deleted: Callable[[str, list[str]], Awaitable[None]],
    ) -> None:
        self._scripts = scripts
        self._work = work
        self._consumers = consumers
        self._settings = settings
        self._delete_after_s = delete_after_s
        self._metrics = metrics
        self._changed = changed
        self._deleted = deleted  # told of pending ids whose content is gone
        self._cursors: dict[str, tuple[str, str]] = {}
        self._members: frozenset[str] = frozenset()
        self._suspects: dict[str, float] = {}  # queue -> loop time until which it is swept each round
        self._swept_all = float("-inf")
        self._lapsed: frozenset[str] = frozenset()
        self._lapsed_since: dict[str, float] = {}  # loop time at which we first saw them lapsed

    def suspect(self, queue: str) -> None:
        """Sweep this queue for the next three leases: an entry of ours was left pending."""
        self._suspects[queue] = asyncio.get_running_loop().time() + 3 * self._settings.lease_s

    async def register(self) -> None:
        """Say that we live; done once before the first read, so that no entry of ours is ever without a record."""
        await self._look()

    async def run(self, progress: Callable[[], None]) -> None:
        """Look and sweep until cancelled."""
        while True:
            progress()
            try:
                await self._look()
                for queue in self._to_sweep():
                    await self._sweep(queue)
                await self._delete_consumers()
            except (RedisAway, RedisFull, NoGroup) as error:
                self._metrics.redis_errors.labels("away").inc()
                _log.warning("reclaim.failed", error=type(error).__name__)
                for queue in self._consumers:
                    self.suspect(queue)
            await asyncio.sleep(self._pause())

    async def deregister(self) -> None:
        """Take our records away at a clean stop, for queues where nothing of ours is pending.

        Others are swept by the living.
        """
        queues = [q for q in self._consumers if await self._work.delete_consumer(q, self._work.consumer)]
        await self._work.deregister([f"{q}/{self._work.consumer}" for q in queues], only_lapsed=False)

    async def _look(self) -> None:
        live: Liveness = await self._work.register(
            self._scripts, self._consumers, int(self._settings.liveness_ttl_s * 1000)
        )
        self._lapsed = frozenset(m for m in live.lapsed if m.partition("/")[0] in self._consumers)
        if live.members != self._members:
            if self._members - live.members:
                self._changed(self._consumers)
            self._members = live.members
        if self._lapsed:
            self._changed({m.partition("/")[0] for m in self._lapsed})

    def _to_sweep(self) -> list[str]:
        now = asyncio.get_running_loop().time()
        if now - self._swept_all >= self._settings.sweep_s * random.uniform(0.8, 1.0):
            self._swept_all = now
            return list(self._consumers)
        self._suspects = {q: until for q, until in self._suspects.items() if until > now}
        return sorted({m.partition("/")[0] for m in self._lapsed} | set(self._suspects))

    async def _sweep(self, queue: str) -> None:
        consumer = self._consumers[queue]
        lease_ms = int(self._settings.lease_s * 1000)
        while free := consumer.slots.free:
            cursors = self._cursors.get(queue, ("0-0", "0-0"))
            swept = await self._work.reclaim(queue, lease_ms, min(free, 100), cursors, mark_ms=max(500, lease_ms // 4))
            if swept is None:
                return
            self._cursors[queue] = swept.cursors
            if swept.deleted:
                await self._deleted(queue, swept.deleted)
            if swept.deliveries:
                self._metrics.reclaimed.labels(queue).inc(len(swept.deliveries))
                _log.info("entries.reclaimed", queue=queue, entries=len(swept.deliveries))
                await consumer.accept(swept.deliveries)
            if swept.cursors == ("0-0", "0-0"):
                return

    async def _delete_consumers(self) -> None:
        """Remove the dead.

        Not before a blocked read that one of them left behind has run out: Redis would hand it an entry that no record
        leads to, and nobody would look for it.
        """
        now = asyncio.get_running_loop().time()
        self._lapsed_since = {member: self._lapsed_since.get(member, now) for member in self._lapsed}
        dead = [member for member, since in self._lapsed_since.items() if now - since >= self._delete_after_s]
        by_queue: defaultdict[str, list[str]] = defaultdict(list)
        # Any of them, not the first: those may still have something pending, and would keep the others from their turn.
        for member in random.sample(dead, min(len(dead), DELETED_AT_ONCE)):
            queue, _, name = member.partition("/")
            if name != self._work.consumer:
                by_queue[queue].append(name)
        for queue, names in sorted(by_queue.items()):
            if deleted := await self._work.delete_consumers(queue, names):
                await self._work.deregister([f"{queue}/{name}" for name in deleted])
                _log.info("consumers.deleted", queue=queue, count=len(deleted), consumers=sorted(deleted)[:20])

    def _pause(self) -> float:
        """Short while there is something to find, else the idle beat.

        Jittered, so that daemons do not sweep in step.
        """
        busy = bool(self._lapsed or self._suspects)
        seconds = min(self._settings.liveness_s, self._settings.lease_s / 10) if busy else self._settings.liveness_s
        return seconds * random.uniform(0.85, 1.0)
