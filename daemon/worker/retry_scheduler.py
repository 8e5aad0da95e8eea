"""Moves tasks that are due from `:retry` to `:ready`. Sleeps until the next due time instead of polling.

This process knows what it parked itself; for what others parked it looks at the heads of `:retry` at start and
whenever the set of living consumers changes (`check`), so a process that died leaves nothing asleep.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from daemon.config import RetrySettings
from daemon.domain.errors import RedisAway, RedisFull
from daemon.observability.logging import logger
from daemon.observability.metrics import Metrics
from daemon.queues.streams import WorkStreams
from daemon.redis_client.connection import NoGroup

_log = logger(__name__)

_BATCH: Final = 100  #: due tasks moved by one script; more would hold Redis up


class RetryScheduler:
    """The mover of one process, for the queues it consumes."""

    def __init__(
        self,
        work: WorkStreams,
        queues: Iterable[str],
        settings: RetrySettings,
        metrics: Metrics,
        lost: Callable[[str, list[str]], Awaitable[None]],
    ) -> None:
        self._work = work
        self._settings = settings
        self._metrics = metrics
        self._lost = lost  # told of ids in :retry whose message is gone
        self._due: dict[str, float] = dict.fromkeys(queues, 0.0)  # loop time; 0: look now
        self._wake = asyncio.Event()

    def snoozed(self, queue: str, delay_s: float) -> None:
        """A task of `queue` will be due in `delay_s`."""
        due = asyncio.get_running_loop().time() + delay_s
        if due < self._due.get(queue, float("inf")):
            self._due[queue] = due
            self._wake.set()

    def check(self, queues: Iterable[str]) -> None:
        """Look at the heads of these queues again."""
        for queue in queues:
            self._due[queue] = 0.0
        self._wake.set()

    async def run(self) -> None:
        """Promote until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            now = loop.time()
            for queue in [q for q, due in self._due.items() if due <= now]:
                await self._promote(queue)
            next_due = min(self._due.values(), default=float("inf"))
            pause = None if next_due == float("inf") else max(0.0, next_due - loop.time())
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _promote(self, queue: str) -> None:
        loop = asyncio.get_running_loop()
        self._due[queue] = float("inf")  # whoever parks while we ask is not in the answer: its own time must stay
        try:
            moved, next_in_s, lost = await self._work.promote(queue, _BATCH)
        except (RedisAway, RedisFull, NoGroup) as error:
            self._metrics.redis_errors.labels("full" if isinstance(error, RedisFull) else "away").inc()
            _log.warning("promote.failed", queue=queue, error=type(error).__name__)
            self._due[queue] = min(self._due[queue], loop.time() + random.uniform(0.5, 1.5))
            return
        if lost:
            await self._lost(queue, lost)
        # +2 ms: the server's milliseconds are cut off, ours are not; asking a hair early would cost a round trip for
        # nothing.
        if next_in_s is not None:
            self._due[queue] = min(self._due[queue], loop.time() + next_in_s + 0.002)
        if moved:
            _log.debug("retries.promoted", queue=queue, entries=moved)
