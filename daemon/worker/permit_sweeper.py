"""Watches over tasks that wait for a guard, as long as there are any: who was called and did not come, who died.

A released place wakes the next waiter at once, without us. The shared sweep is for what nobody releases: a holder whose
lease ran out, a call that was lost. It asks nothing while nobody waits: a process looks when it parked a waiter itself,
at start, and when the set of living consumers has changed.
"""

from __future__ import annotations

import asyncio
import random

from daemon.domain.errors import RedisAway, RedisFull
from daemon.limiter.permits import RedisLimiter
from daemon.observability.logging import logger
from daemon.observability.metrics import Metrics

_log = logger(__name__)


class PermitSweeper:
    """The sweep of one process."""

    def __init__(self, limiter: RedisLimiter, sweep_s: float, metrics: Metrics) -> None:
        self._limiter = limiter
        self._sweep_s = sweep_s
        self._metrics = metrics
        self._wake = asyncio.Event()
        self._wake.set()  # those of before this process are looked for once

    def wake(self) -> None:
        """Somebody waits now, or may: a process that watched has died."""
        self._wake.set()

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(self._sweep_s * random.uniform(0.8, 1.0))
            self._wake.clear()
            try:
                if await self._limiter.sweep():
                    self._wake.set()
            except (RedisAway, RedisFull) as error:
                self._metrics.redis_errors.labels("away").inc()
                _log.warning("permits.sweep_failed", error=type(error).__name__)
                self._wake.set()
