"""Carries out what operators say of the queues of this process: pause, resume, slots, limits. Within a second.

Told by the control channel; looked up again at every unasked sweep and after every lost connection, so a word that was
not heard is only late. Running attempts go on, whatever is said.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from daemon.domain.errors import RedisAway, RedisFull
from daemon.domain.permits import Permit
from daemon.limiter.permits import RedisLimiter
from daemon.observability.logging import logger
from daemon.observability.metrics import Metrics
from daemon.queues.control import Control, ControlFeed, Controls
from daemon.redis_client import keys
from daemon.services.limits_in_force import queue_limit_of, slots_of
from daemon.worker.consumer import QueueConsumer

_log = logger(__name__)

_PAUSE_S: Final = (0.1, 2.0)


class QueueControl:
    """The control of one process over its consumers. `parallelism` is what holds when nothing else is said."""

    def __init__(
        self,
        controls: Controls,
        feed: ControlFeed,
        consumers: Mapping[str, QueueConsumer],
        limiter: RedisLimiter,
        reread_s: float,
        metrics: Metrics,
        resumed: Callable[[Sequence[str]], None],
    ) -> None:
        self._controls = controls
        self._feed = feed
        self._consumers = consumers
        self._configured_slots = {queue: consumer.slots.total for queue, consumer in consumers.items()}
        self._reread_s = reread_s
        self._metrics = metrics
        self._limiter = limiter
        self._resumed = resumed  # told of queues whose parked tasks may be due earlier than was thought
        self._applied: dict[str, Control] = {}

    def queue_limit(self, queue: str) -> int | None:
        """Attempts of a queue at once over all processes; None: no such limit."""
        applied = self._applied.get(queue)
        return applied.global_parallelism if applied is not None else None

    async def refresh(self, *queues: str) -> None:
        """Read what is said of these queues (none: of all) and do so. Done once before the first read."""
        for queue, control in (await self._controls.read(queues or list(self._consumers))).items():
            await self._apply(queue, control)

    async def run(self) -> None:
        """Listen until cancelled."""
        failures = 0
        try:
            while True:
                try:
                    await self._follow()
                except (RedisAway, RedisFull) as error:
                    failures += 1
                    self._metrics.redis_errors.labels("away").inc()
                    _log.warning("control.disconnected", error=type(error).__name__, failures=failures)
                    await self._feed.close()
                    await asyncio.sleep(
                        random.uniform(0.5, 1) * min(_PAUSE_S[1], _PAUSE_S[0] * 2.0 ** min(failures, 9))
                    )
                else:
                    failures = 0
        finally:
            await self._feed.close()

    async def _follow(self) -> None:
        await self._feed.listen()
        await self.refresh()  # after listening: what was said in between is heard, or seen here
        deadline = asyncio.get_running_loop().time() + self._reread_s * random.uniform(0.8, 1.0)
        while (left := deadline - asyncio.get_running_loop().time()) > 0:
            queue = await self._feed.next(left)
            if queue is not None and queue in self._consumers:
                await self.refresh(queue)

    async def _apply(self, queue: str, control: Control) -> None:
        before, self._applied[queue] = self._applied.get(queue, Control()), control
        consumer = self._consumers[queue]
        slots = slots_of(self._configured_slots[queue], control.parallelism)
        if slots != consumer.slots.total:
            consumer.resize(slots)
        if control.paused != consumer.slots.closed:
            _log.warning("queue.paused" if control.paused else "queue.resumed", queue=queue, who=control.who,
                         why=control.why)  # fmt: skip
        if control.paused:
            await consumer.pause()
        elif consumer.slots.closed:
            consumer.resume()
            self._resumed([queue])
        if control.global_parallelism != before.global_parallelism:
            await self._limiter.change_limit(
                Permit(keys.queue_permits(queue), queue_limit_of(control.global_parallelism))
            )
