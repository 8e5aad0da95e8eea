"""Takes over the work of consumers that went silent or are proved dead, before new work is read.

One shared liveness record tells who reads what, so an idle daemon asks once in some seconds instead of sweeping
every stream. A sweep runs at start, for queues with a lapsed record, after trouble, and unasked once in a while in
case the record itself was lost. Every consumer asks `before_fetch`: no backlog is ahead of recovery
(docs/decisions/0009-ownership.md).
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

from daemon.config import LeaseSettings
from daemon.domain.errors import RedisAway, RedisFull
from daemon.observability.logging import logger
from daemon.observability.metrics import Metrics
from daemon.ports import Delivery
from daemon.queues.streams import START, Liveness, Reclaimed, WorkStreams
from daemon.redis_client.connection import NoGroup
from daemon.redis_client.scripts import Scripts
from daemon.worker.consumer import QueueConsumer
from daemon.worker.proof_of_death import ProofsOfDeath

_log = logger(__name__)

#: in one flush or script: ten thousand dead, each asked after alone, kept the living from their work for minutes
AT_ONCE: Final = 100


class Reclaimer:
    """Liveness and sweeps of one process. `changed` is told when the set of living consumers changes."""

    def __init__(
        self,
        scripts: Scripts,
        work: WorkStreams,
        consumers: Mapping[str, QueueConsumer],
        settings: LeaseSettings,
        block_s: float,
        metrics: Metrics,
        *,
        changed: Callable[[Iterable[str]], None],
        deleted: Callable[[str, list[str]], Awaitable[None]],
        proofs: ProofsOfDeath,
        free_permits: Callable[[Iterable[str], Sequence[Delivery]], Awaitable[None]],
    ) -> None:
        self._scripts = scripts
        self._work = work
        self._consumers = consumers
        self._settings = settings
        self._delete_after_s = block_s * 1.5  # a BLOCK may run over by half: redis#12998
        self._metrics = metrics
        self._changed = changed
        self._deleted = deleted  # told of pending ids whose content is gone
        self._proofs = proofs
        self._free_permits = free_permits  # of these dead owners, for entries that were theirs
        self._cursors: dict[str, tuple[str, str]] = {}
        self._members: frozenset[str] = frozenset()
        self._suspects: dict[str, float] = {}  # queue -> loop time until which it is swept each round
        self._swept_all = float("-inf")
        self._lapsed_since: dict[str, float] = {}  # lapsed or dead member -> loop time at which we first saw it so
        self._due: set[str] = set()  # queues to sweep, or to go on sweeping, before anything new is read
        self._pending: dict[str, Mapping[str, int]] = {}  # queue -> entries of each consumer at the last sweep
        self._recovering = asyncio.Lock()
        for consumer in consumers.values():
            consumer.before_fetch = self.before_fetch

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
                await self._recover()
                await self._delete_consumers()
            except (RedisAway, RedisFull, NoGroup) as error:
                self._metrics.redis_errors.labels("away").inc()
                _log.warning("reclaim.failed", error=type(error).__name__)
                for queue in self._consumers:
                    self.suspect(queue)
            await asyncio.sleep(self._pause())

    async def before_fetch(self, queue: str) -> int:
        """Take over what is due, into free slots; then how many slots of `queue` to keep free for what is not yet."""
        if self._due:
            await self._recover()
        return self._kept_free(queue)

    async def deregister(self) -> None:
        """Take our records away at a clean stop, for queues where nothing of ours is pending.

        Others are swept by the living.
        """
        queues = [q for q in self._consumers if await self._work.delete_consumer(q, self._work.consumer)]
        await self._work.deregister([f"{q}/{self._work.consumer}" for q in queues], only_lapsed=False)

    async def _look(self) -> None:
        ttl_ms = int(self._settings.liveness_ttl_s * 1000)
        live: Liveness = await self._work.register(self._scripts, self._consumers, ttl_ms, self._proofs.record)
        if proved := self._proofs.look(live.facts):
            _log.warning("consumers.proved_dead", count=len(proved), consumers=sorted(proved)[:20])
        gone = live.lapsed | {m for m in live.members if _owner(m) in self._proofs.dead}
        now = asyncio.get_running_loop().time()
        self._lapsed_since = {m: self._lapsed_since.get(m, now) for m in gone if _queue(m) in self._consumers}
        if live.members != self._members:
            if self._members - live.members:
                self._changed(self._consumers)
            self._members = live.members
        if self._lapsed_since:
            self._changed({_queue(m) for m in self._lapsed_since})
        self._due |= self._to_sweep(now)

    def _to_sweep(self, now: float) -> set[str]:
        if now - self._swept_all >= self._settings.sweep_s * random.uniform(0.8, 1.0):
            self._swept_all = now
            return set(self._consumers)
        self._suspects = {q: until for q, until in self._suspects.items() if until > now}
        return {_queue(m) for m in self._lapsed_since} | set(self._suspects)

    def _kept_free(self, queue: str) -> int:
        """What lapsed consumers have and nobody may take yet; each for a lease at most."""
        pending = self._pending.get(queue, {})
        until = asyncio.get_running_loop().time() - self._settings.lease_s
        lapsed = (m for m, since in self._lapsed_since.items() if _queue(m) == queue and since > until)
        return sum(pending.get(_owner(member), 0) for member in lapsed)

    async def _recover(self) -> None:
        """Take over what may be taken over, of all queues that are due and as far as slots are free."""
        async with self._recovering:
            kept = {queue: self._kept_free(queue) for queue in self._due}
            await self._take_over_dead()
            for queue in sorted(self._due):
                if await self._sweep(queue):
                    self._due.discard(queue)
            for queue, before in kept.items():
                if self._kept_free(queue) > before:
                    await self._consumers[queue].look_again()

    async def _take_over_dead(self) -> None:
        """What is pending to owners that are proved dead, however young their leases are, and their permits with it."""
        dead: defaultdict[str, list[str]] = defaultdict(list)
        for member in self._lapsed_since:
            queue, owner = _queue(member), _owner(member)
            if owner in self._proofs.dead and queue in self._due:
                dead[queue].append(owner)
        taken: list[tuple[str, Reclaimed]] = []
        try:
            for queue, owners in dead.items():
                some = random.sample(owners, min(len(owners), AT_ONCE))
                consumer = self._consumers[queue]
                with consumer.slots.reserved(consumer.room) as slots:
                    if slots:
                        taken.append((queue, await self._work.take_over(queue, some, slots)))
            if deliveries := [d for _, swept in taken for d in swept.deliveries]:
                await self._free_permits({owner for owners in dead.values() for owner in owners}, deliveries)
        finally:
            for queue, swept in taken:
                await self._accept(queue, swept)

    async def _sweep(self, queue: str) -> bool:
        """Whether all entries of the queue were looked at; False: no slot was left for what may lie behind."""
        consumer = self._consumers[queue]
        lease_ms = int(self._settings.lease_s * 1000)
        while free := consumer.room:
            cursors = self._cursors.get(queue, START)
            swept = await self._work.reclaim(queue, lease_ms, min(free, 100), cursors, mark_ms=max(500, lease_ms // 4))
            self._pending[queue] = swept.pending
            if swept.elsewhere:
                return True
            self._cursors[queue] = swept.cursors
            await self._accept(queue, swept)
            if swept.cursors == START:
                return True
        return False

    async def _accept(self, queue: str, swept: Reclaimed) -> None:
        if swept.deleted:
            await self._deleted(queue, swept.deleted)
        if swept.deliveries:
            self._metrics.reclaimed.labels(queue).inc(len(swept.deliveries))
            _log.info("entries.reclaimed", queue=queue, entries=len(swept.deliveries))
            await self._consumers[queue].accept(swept.deliveries)

    async def _delete_consumers(self) -> None:
        """Remove the dead.

        Not before a blocked read that one of them left behind has run out: Redis would hand it an entry that no record
        leads to, and nobody would look for it.
        """
        now = asyncio.get_running_loop().time()
        dead = [member for member, since in self._lapsed_since.items() if now - since >= self._delete_after_s]
        by_queue: defaultdict[str, list[str]] = defaultdict(list)
        # Any of them, not the first: those may still have something pending, and would keep the others from their turn.
        for member in random.sample(dead, min(len(dead), AT_ONCE)):
            if _owner(member) != self._work.consumer:
                by_queue[_queue(member)].append(_owner(member))
        for queue, names in sorted(by_queue.items()):
            if deleted := await self._work.delete_consumers(queue, names):
                await self._work.deregister([f"{queue}/{name}" for name in deleted])
                _log.info("consumers.deleted", queue=queue, count=len(deleted), consumers=sorted(deleted)[:20])

    def _pause(self) -> float:
        """Short while there is something to find, else the idle beat.

        Jittered, so that daemons do not sweep in step.
        """
        busy = bool(self._lapsed_since or self._suspects)
        seconds = min(self._settings.liveness_s, self._settings.lease_s / 10) if busy else self._settings.liveness_s
        return seconds * random.uniform(0.85, 1.0)


def _queue(member: str) -> str:
    return member.partition("/")[0]


def _owner(member: str) -> str:
    return member.partition("/")[2]
