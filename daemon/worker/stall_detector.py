"""Does this process hear its queues? Two ways of being deaf, and who is told.

A read that outlives its own limits hangs: seen without asking anybody, and the watchdog is no longer fed. And work that
waits beside a free slot while nothing is read: seen in Redis, looked for only when a probe asks, and at most once in
`LOOK_S`. That one is told to readiness at once, and to liveness when it lasts: then a restart is the cure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from daemon.config import OpsSettings, RedisSettings
from daemon.observability.logging import logger
from daemon.queues.depths import Depths, QueueDepth
from daemon.worker.consumer import QueueConsumer

_log = logger(__name__)

LOOK_S: Final = 60.0  #: how old a look may be here: seven commands a minute is all that probes cost
_SLACK_S: Final = 5.0  #: of a read beside its own limit


class StallDetector:
    """Judges the consumers of one process. `look` gives what Redis holds, at most so many seconds old."""

    def __init__(
        self,
        consumers: Mapping[str, QueueConsumer],
        look: Callable[[float], Awaitable[Depths | None]],
        settings: OpsSettings,
        redis: RedisSettings,
        now: Callable[[], float] | None = None,
    ) -> None:
        self._consumers = consumers
        self._look = look
        self._stalled_s = settings.deaf_s
        self._read_s_max = redis.block_s * 1.5 + 5 + redis.connect_timeout_s + redis.pool_wait_s + _SLACK_S
        self._now = now or asyncio.get_running_loop().time  # the consumers' own clock
        self._stalled_since: float | None = None

    def hung_reads(self) -> list[str]:
        """Names of the reads that should have ended long ago."""
        now = self._now()
        return [
            f"read:{queue}"
            for queue, consumer in self._consumers.items()
            if consumer.reading_since is not None and now - consumer.reading_since > self._read_s_max
        ]

    async def ready(self) -> str:
        """Nothing, or what waits unheard. When Redis can't tell, nothing is held against us."""
        depths = await self._look(min(LOOK_S, self._stalled_s))
        stalled = [reason for depth in depths.queues if (reason := self._stalled(depth, depths))] if depths else []
        if not stalled:
            self._stalled_since = None
            return ""
        if self._stalled_since is None:
            self._stalled_since = self._now()
            _log.error("consumer.stalled", queues=stalled)
        return "; ".join(stalled)

    async def alive(self) -> str:
        """Nothing, or why only a restart helps: a read hangs, or this process has been deaf for twice its limit."""
        hung_reads = self.hung_reads()
        if hung_reads:
            return f"{', '.join(hung_reads)} hangs"
        why = await self.ready()
        lasting = self._stalled_since is not None and self._now() - self._stalled_since >= self._stalled_s
        return why if lasting else ""

    def _stalled(self, depth: QueueDepth, depths: Depths) -> str:
        consumer = self._consumers.get(depth.queue)
        if consumer is None or depth.paused or depth.oldest_at_s is None or not consumer.slots.free:
            return ""
        waited_s = depths.at_s - depth.oldest_at_s
        idle_s = self._now() - consumer.idle_since
        if min(waited_s, idle_s) < self._stalled_s:
            return ""
        return f"{depth.queue}: {depth.waiting} wait for {waited_s:.0f} s beside {consumer.slots.free} free slots"
