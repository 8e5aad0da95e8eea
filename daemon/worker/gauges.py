"""Gauges that are read when somebody asks, never by themselves: what Redis holds, and the connection pools.

An unwatched daemon pays nothing for them.

Every daemon tells the same numbers, of all queues of the services file, so that a queue which nobody consumes is seen
too: aggregate with `max by (queue)`, never with `sum`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from daemon.domain.errors import RedisAway, RedisFull
from daemon.domain.queues import QueueSpec, Tier
from daemon.observability.logging import logger
from daemon.observability.metrics import Metrics
from daemon.ports import Clock
from daemon.queues.control import Control
from daemon.queues.depths import DepthReader, Depths, QueueDepth
from daemon.services import Model, ServiceCatalog

_log = logger(__name__)

#: whoever asks has little time (a scrape, a probe): what is slower than this is not known
READ_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class GaugeLimits:
    """What the sizes are held against, as it is in force."""

    queue: Callable[[QueueSpec, Control], int]
    permits: Callable[[Model, Tier], int]


class DepthGauges:
    """The last look, not older than the caller wants, and the gauges that show it."""

    def __init__(
        self, reader: DepthReader, catalog: Callable[[], ServiceCatalog], limits: GaugeLimits, metrics: Metrics,
        clock: Clock,
    ) -> None:  # fmt: skip
        self._reader = reader
        self._catalog = catalog
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._looked = float("-inf")
        self._last: Depths | None = None

    async def look(self, age_s: float) -> Depths | None:
        """A look that is at most `age_s` old; None when Redis did not tell, then or now."""
        async with self._one_at_a_time:
            if self._clock.monotonic() - self._looked >= age_s:
                self._last = await self._read()
                self._looked = self._clock.monotonic()
                self._show()
            return self._last

    async def _read(self) -> Depths | None:
        catalog = self._catalog()
        try:
            async with asyncio.timeout(READ_S):
                return await self._reader.read(list(catalog.queues), list(catalog.models))
        except (RedisAway, RedisFull, TimeoutError) as error:
            _log.warning("depths.read_failed", error=type(error).__name__)
            return None

    def _show(self) -> None:
        m, depths = self._metrics, self._last
        m.clear_depths()  # what is not known is not shown: an old number would be believed
        if depths is None:
            return
        m.depths_timestamp_seconds.set(depths.at_s)
        catalog = self._catalog()
        for depth in depths.queues:
            if depth.queue in catalog.queues:
                self._show_queue(depth, catalog.queues[depth.queue])
        for (model, tier), used in depths.permits_in_use.items():
            if model in catalog.models:
                m.permits_in_use.labels(model, tier).set(used)
                m.permits_max.labels(model, tier).set(self._limits.permits(catalog.models[model], tier))
                m.model_available.labels(model).set(model not in depths.unavailable)
        if depths.memory_bytes is not None:
            m.redis_memory_bytes.set(depths.memory_bytes)
            m.redis_memory_max_bytes.set(depths.memory_bytes_max or 0)

    def _show_queue(self, depth: QueueDepth, spec: QueueSpec) -> None:
        m, queue = self._metrics, depth.queue
        for state in ("waiting", "running", "delayed", "dead"):
            m.queue_tasks.labels(queue, state).set(getattr(depth, state))
        m.queue_occupancy.labels(queue).set(depth.occupancy)
        m.queue_capacity.labels(queue).set(self._limits.queue(spec, depth.control))
        m.queue_paused.labels(queue).set(depth.paused)
        m.queue_consumers.labels(queue).set(depth.consumers)
        m.queue_oldest_timestamp_seconds.labels(queue).set(depth.oldest_at_s or 0)


def show_pool(metrics: Metrics, server: str, sizes: Callable[[], tuple[int, int]], most: int) -> None:
    """Show how many connections are (used, idle), as `sizes` tells, and how many there may be. Costs no round trip."""
    metrics.connections_max.labels(server).set(most)
    for at, state in enumerate(("used", "idle")):
        metrics.connections.labels(server, state).set_function(partial(_item, sizes, at))


def _item(sizes: Callable[[], tuple[int, int]], at: int) -> int:
    return sizes()[at]
