"""Keeps the counters of queues true: drift is repaired, counted and said; promises that were not kept are given back.

A queue that this process works on is looked at in every round. Those that idle share one command in every fifth round,
which finds a count that nobody stands behind any more: a bare INCR without its message, a promise not kept. One that
was counted when we last looked and is not any more is looked at once: its counter may have been lost.

One process at a time looks at a queue.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Final

from daemon.domain.errors import RedisAway, RedisFull
from daemon.observability.logging import logger
from daemon.observability.metrics import Metrics
from daemon.queues.drift import Drift
from daemon.worker.consumer import QueueConsumer

_log = logger(__name__)

#: what idles is looked at in every fifth round: a surplus is seen within five, and gone a promise time and five later
IDLE_ROUNDS: Final = 5


class Reconciler:
    """The reconciler of one process."""

    def __init__(
        self,
        drift: Drift,
        consumers: Mapping[str, QueueConsumer],
        every_s: float,
        metrics: Metrics,
    ) -> None:
        self._drift = drift
        self._consumers = consumers
        self._every_s = every_s
        self._metrics = metrics
        self._round = 0
        self._counted: set[str] = set()  # queues that were counted, or worked on, at the last look
        self._unused = {queue: consumer.idle_since for queue, consumer in consumers.items()}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(self._every_s * random.uniform(0.8, 1.0))
            self._round += 1
            for queue in await self._to_look_at():
                await self._look(queue)

    async def _to_look_at(self) -> list[str]:
        now = asyncio.get_running_loop().time()
        busy: list[str] = []
        idle: list[str] = []
        for queue, consumer in self._consumers.items():
            since = consumer.idle_since
            recent = since != self._unused[queue] and now - since < 2 * self._every_s
            # What is paused waits with all its places, however long: no queue of that state is taken for empty.
            (busy if consumer.slots.used or recent or self._paused(consumer) else idle).append(queue)
        if idle and self._round % IDLE_ROUNDS == 0:
            try:
                counted = set(await self._drift.counted(idle))
            except (RedisAway, RedisFull) as error:
                self._failed(", ".join(idle), error)
            else:
                busy += [queue for queue in idle if queue in counted | self._counted]
                self._counted = counted
        self._counted.update(queue for queue in busy if queue not in idle)
        return busy

    def _paused(self, consumer: QueueConsumer) -> bool:
        return consumer.slots.closed and self._round % IDLE_ROUNDS == 0

    async def _look(self, queue: str) -> None:
        try:
            found = await self._drift.repair(queue, int(self._every_s * 700))
        except (RedisAway, RedisFull) as error:
            self._failed(queue, error)
            return
        for reason, by in (("raised", found.raised), ("lowered", found.lowered), ("reservation", found.expired)):
            if by:
                self._metrics.counter_repairs.labels(queue, reason).inc()
                _log.warning("counter.repaired", queue=queue, reason=reason, by=by)

    def _failed(self, queues: str, error: Exception) -> None:
        self._metrics.redis_errors.labels("full" if isinstance(error, RedisFull) else "away").inc()
        _log.warning("reconcile.failed", queue=queues, error=type(error).__name__)
