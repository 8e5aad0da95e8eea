"""How an entry leaves its consumer without an ack: snoozed, deferred unread, requeued, dead-lettered.

Each method is one script and one flush, checks that the entry is ours, and may be repeated.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from daemon.domain.errors import Code
from daemon.observability.metrics import Metrics
from daemon.ports import Clock, Delivery, UnsupportedVersion
from daemon.queues.streams import WorkStreams
from daemon.redis_client.scripts import Scripts


class EntryMoves:
    """Moves entries. `snoozed` gets the queue and the delay of each snoozed task, so that the retry timer is set."""

    def __init__(
        self,
        scripts: Scripts,
        work: WorkStreams,
        metrics: Metrics,
        snoozed: Callable[[str, float], None],
        clock: Clock,
    ) -> None:
        self._scripts = scripts
        self._work = work
        self._metrics = metrics
        self._snoozed = snoozed
        self._now = clock.time

    async def snooze(
        self, d: Delivery, due_in_ms: int, *, reason: str, waiting_since_ms: int = 0, wakeable: bool = False
    ) -> bool:
        """Into `:retry`, due in so many ms of server time; False when the entry is no longer ours."""
        if d.entry is None:
            raise ValueError("an entry that can't be read is dead-lettered, not snoozed")
        entry = msgspec.structs.replace(d.entry, parked=reason, parked_at=waiting_since_ms)
        raw, task_id = msgspec.json.encode(entry), d.entry.message.task_id
        call = self._work.snooze_call(d, task_id, raw, due_in_ms, wakeable=wakeable)
        owned, _due, due_now_ms = (await self._scripts.run([call]))[0]
        # In any case: after a lost reply the repeated script says that the entry is not ours, and nobody would wake
        # the task that the first one snoozed. One look for nothing costs less.
        self._snoozed(d.queue, (due_now_ms if owned else due_in_ms) / 1000)
        return bool(owned)

    async def defer_unread(self, d: Delivery, unsupported: UnsupportedVersion, due_in_ms: int) -> bool:
        """Into `:retry`, unread: the only thing written into it is when this wait began."""
        raw = unsupported.raw
        if not unsupported.since_ms:
            entry = msgspec.json.decode(raw)
            raw = msgspec.json.encode({**entry, "parkedAt": int(self._now() * 1000)})
        owned, _, _ = (await self._scripts.run([self._work.snooze_call(d, unsupported.task_id, raw, due_in_ms)]))[0]
        self._snoozed(d.queue, due_in_ms / 1000)
        return bool(owned)

    async def requeue(self, d: Delivery) -> bool:
        """Into `:ready`, where any daemon may take it at once; False when the entry is no longer ours."""
        moved = bool((await self._scripts.run([self._work.requeue_call(d)]))[0])
        if moved:
            self._metrics.requeued.labels(d.queue).inc()
        return moved

    async def dead_letter(
        self, d: Delivery, *, code: Code, reason: str, attempts: int, whole_task: bool = True
    ) -> bool:
        """Settle the entry and leave a dead letter without content."""
        call = self._work.dead_letter_call(d, code=code, reason=reason, attempts=attempts, whole_task=whole_task)
        owned, clamped = (await self._scripts.run([call]))[0]
        self.count_clamp(d.queue, clamped)
        if owned:
            self._metrics.dead_letters.labels(d.queue, code.value).inc()
        return bool(owned)

    def count_clamp(self, queue: str, clamped: int) -> None:
        """Count a counter that would have fallen below zero."""
        if clamped:
            self._metrics.counter_clamps.labels(queue).inc()
