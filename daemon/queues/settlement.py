"""The end of a task in Redis: events, guards and entry, each step one flush, in the order that the pipeline asks for.

Puts `EventLog`, `RedisLimiter` and `WorkStreams` behind the port `Settlement`: steps that the completion order keeps
apart may still share a round trip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from daemon.domain.errors import Code
from daemon.domain.events import EventDraft
from daemon.domain.permits import CallReport, Permit
from daemon.events.log import EventLog
from daemon.limiter.permits import RedisLimiter
from daemon.observability.metrics import Metrics
from daemon.ports import Appended, Clock, Delivery, TaskIdentity, UnsupportedVersion
from daemon.queues.streams import WorkStreams
from daemon.redis_client.scripts import Scripts


class RedisSettlement:
    """The `Settlement` port. `snoozed` gets the queue and the delay of every snoozed task.

    So that the mover wakes in time.
    """

    def __init__(
        self,
        scripts: Scripts,
        work: WorkStreams,
        events: EventLog,
        limiter: RedisLimiter,
        metrics: Metrics,
        snoozed: Callable[[str, float], None],
        clock: Clock,
    ) -> None:
        self._scripts = scripts
        self._work = work
        self._events = events
        self._limiter = limiter
        self._metrics = metrics
        self._snoozed = snoozed
        self._now = clock.time

    async def begin(self, d: Delivery, task: TaskIdentity, attempt: int, draft: EventDraft) -> tuple[bool, Appended]:
        """Give the place back and append `started`, in one flush; False: the entry is no longer ours."""
        (owned, clamped), appended = await self._scripts.run(
            [self._work.begin_call(d, task.task_id), self._events.append_call(task, attempt, [draft])]
        )
        self._count_clamp(d.queue, clamped)
        return bool(owned), self._count_fenced(EventLog.appended(appended))

    async def append(self, task: TaskIdentity, attempt: int, drafts: Sequence[EventDraft]) -> Appended:
        """Append events of one attempt in order, under one nonce."""
        self._metrics.event_flushes.inc()
        return self._count_fenced(await self._events.append(task, attempt, drafts))

    async def append_and_release(
        self,
        task: TaskIdentity,
        attempt: int,
        drafts: Sequence[EventDraft],
        token: str,
        permits: Sequence[Permit],
        report: CallReport | None = None,
        after: int | None = None,
    ) -> Appended:
        """The last events, then the release of the guards, in one flush; one more if that lets somebody in."""
        calls = [self._events.append_call(task, attempt, drafts, after=after)]
        if permits:
            calls.append(self._limiter.release_call(token, permits, report))
        appended, *released = await self._scripts.run(calls)
        for released_count, opened, *woken in released:
            if released_count < len(permits):  # our lease had run out: a zombie's release frees nobody else's place
                self._metrics.fenced.labels("release").inc()
            if opened and report is not None:
                self._metrics.model_cooldowns.labels(report.candidate.model_id, "BREAKER_OPEN").inc()
            await self._limiter.wake(woken)
        return self._count_fenced(EventLog.appended(appended))

    async def streamed_text(self, task: TaskIdentity, attempt: int) -> tuple[str, int]:
        """What viewers have of the attempt's text, and the `seq` of its last event."""
        return await self._events.streamed_text(task.task_id, attempt)

    async def ack(self, d: Delivery, *, whole_task: bool = True) -> bool:
        """XACK + XDEL if the entry is ours; with `whole_task` the place and the blobs go too."""
        owned, clamped = (await self._scripts.run([self._work.ack_call(d, whole_task=whole_task)]))[0]
        self._count_clamp(d.queue, clamped)
        if not owned:
            self._metrics.fenced.labels("ack").inc()
        return bool(owned)

    async def snooze(
        self, d: Delivery, due_in_ms: int, *, reason: str, waiting_since_ms: int = 0, wakeable: bool = False
    ) -> bool:
        """Into `:retry`, due in so many ms of server time; False when the entry is no longer ours."""
        if d.entry is None:
            raise ValueError("an entry that can't be read is dead-lettered, not parked")
        entry = msgspec.structs.replace(d.entry, parked=reason, parked_at=waiting_since_ms)
        call = self._work.snooze_call(d, entry, due_in_ms, wakeable=wakeable)
        owned, _due, due_now_ms = (await self._scripts.run([call]))[0]
        # Told in any case: where the reply was lost, the repeated script says that the entry is not ours any more, and
        # nobody else would wake the task that the first one parked. One look for nothing costs less.
        self._snoozed(d.queue, (due_now_ms if owned else due_in_ms) / 1000)
        return bool(owned)

    async def defer_unread(self, d: Delivery, unsupported: UnsupportedVersion, due_in_ms: int) -> bool:
        """Into `:retry`, unread: the only thing written into it is when this wait began."""
        raw = unsupported.raw
        if not unsupported.since_ms:
            entry = msgspec.json.decode(raw)
            raw = msgspec.json.encode({**entry, "parkedAt": int(self._now() * 1000)})
        owned, _, _ = (await self._scripts.run([self._work.defer_call(d, unsupported.task_id, raw, due_in_ms)]))[0]
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
        self._count_clamp(d.queue, clamped)
        if owned:
            self._metrics.dead_letters.labels(d.queue, code.value).inc()
        return bool(owned)

    def _count_fenced(self, appended: Appended) -> Appended:
        if not (appended.accepted or appended.ended or appended.overtaken):
            self._metrics.fenced.labels("event").inc()
        return appended

    def _count_clamp(self, queue: str, clamped: int) -> None:
        if clamped:
            self._metrics.counter_clamps.labels(queue).inc()
