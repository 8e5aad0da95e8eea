"""Keeps the counters of queues true: drift is repaired, counted and said; promises that were not kept are given back.

A queue that this process works on is looked at often; one that idles rarely, so that waiting costs next to nothing. One
process at a time looks at a queue.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

from daemon.errors import RedisAway, RedisFull
from daemon.logs import logger
from daemon.metrics import Metrics
from daemon.stream.drift import Drift
from daemon.worker.consumer import QueueConsumer

_log = logger(__name__)

#: an idle queue is looked at in every tenth round
_IDLE_ROUNDS = 10


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
        self._unused = {queue: consumer.idle_since for queue, consumer in consumers.items()}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(self._every_s * random.uniform(0.8, 1.0))
            now = asyncio.get_running_loop().time()
            for queue, consumer in self._consumers.items():
                since = consumer.idle_since
                recent = since != self._unused[queue] and now - since < 2 * self._every_s
                if consumer.slots.used or recent or self._round % _IDLE_ROUNDS == 0:
                    await self._look(queue)
            self._round += 1

    async def _look(self, queue: str) -> None:
        try:
            found = await self._drift.repair(queue, int(self._every_s * 700))
        except (RedisAway, RedisFull) as error:
            self._metrics.redis_errors.labels("full" if isinstance(error, RedisFull) else "away").inc()
            _log.warning("reconcile.failed", queue=queue, error=type(error).__name__)
            return
        for kind, by in (("raised", found.raised), ("lowered", found.lowered), ("promise", found.promises)):
            if by:
                self._metrics.counter_repairs.labels(queue, kind).inc()
                _log.warning("counter.repaired", queue=queue, kind=kind, by=by)
