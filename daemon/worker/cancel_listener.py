"""Stops the model calls of tasks that somebody asked to cancel. Listens only while this process runs something.

Idle it costs nothing; busy, one blocked read. What it misses is told by the next event of the task.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final

from daemon.domain.errors import Code, RedisAway, RedisFull, TaskError
from daemon.events.cancel_notices import CancelNotices
from daemon.observability.logging import logger
from daemon.observability.metrics import Metrics
from daemon.worker.lease import Leases

_log = logger(__name__)

_PAUSE_S: Final = 0.5


class CancelListener:
    """The listener of one process."""

    def __init__(self, notices: CancelNotices, leases: Leases, metrics: Metrics) -> None:
        self._notices = notices
        self._leases = leases
        self._metrics = metrics

    async def run(self) -> None:
        """Listen until cancelled."""
        try:
            while True:
                await self._leases.busy.wait()
                try:
                    asked = set(await self._notices.wait())
                except (RedisAway, RedisFull) as error:
                    self._metrics.redis_errors.labels("away").inc()
                    _log.warning("cancels.disconnected", error=type(error).__name__)
                    await self._notices.close()
                    await asyncio.sleep(_PAUSE_S * random.uniform(1, 2))
                    continue
                for in_flight in self._leases.deliveries():
                    if in_flight.task_id in asked:
                        _log.info("attempt.cancelled", task_id=in_flight.task_id, attempt=in_flight.attempt)
                        in_flight.scope.interrupt(TaskError(code=Code.CANCELLED))
        finally:
            await self._notices.close()
