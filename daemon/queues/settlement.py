"""The end of a task in Redis: events, permits and entry, each step one flush, in the order that the pipeline asks for.

Puts `EventLog`, `RedisLimiter` and `WorkStreams` behind the port `Settlement`: steps that the completion order keeps
apart may still share a round trip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from daemon.domain.events import Event, EventDraft
from daemon.domain.messages import Origin
from daemon.domain.permits import CallReport, Permit
from daemon.events.log import EventLog
from daemon.limiter.permits import RedisLimiter
from daemon.observability.metrics import Metrics
from daemon.ports import Appended, Clock, Delivery, TaskIdentity
from daemon.queues.entry_moves import EntryMoves
from daemon.queues.streams import WorkStreams
from daemon.redis_client.scripts import Scripts


class RedisSettlement(EntryMoves):
    """The `Settlement` port: what a task that goes well needs is here, everything else in `EntryMoves`."""

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
        super().__init__(scripts, work, metrics, snoozed, clock)
        self._events = events
        self._limiter = limiter

    async def begin(self, d: Delivery, task: TaskIdentity, attempt: int, draft: EventDraft) -> tuple[bool, Appended]:
        """Release the slot in the queue and append `started`, in one flush; False: the entry is no longer ours."""
        (owned, clamped), appended = await self._scripts.run(
            [
                self._work.begin_call(d, task.task_id),
                self._events.append_call(task, attempt, [draft], origin=origin_of(d)),
            ]
        )
        self.count_clamp(d.queue, clamped)
        return bool(owned), self._count_fenced(EventLog.appended(appended))

    async def ending(self, task: TaskIdentity) -> tuple[Event, str] | None:
        """The terminal event that viewers were told, and the text of its attempt."""
        return await self._events.ending(task.task_id)

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
        """The last events, then the release of the permits, in one flush; one more if that lets somebody in."""
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
        """XACK + XDEL if the entry is ours; with `whole_task` its slot in the queue and its blobs go too."""
        owned, clamped = (await self._scripts.run([self._work.ack_call(d, whole_task=whole_task)]))[0]
        self.count_clamp(d.queue, clamped)
        if not owned:
            self._metrics.fenced.labels("ack").inc()
        return bool(owned)

    def _count_fenced(self, appended: Appended) -> Appended:
        if not (appended.accepted or appended.ended or appended.overtaken):
            self._metrics.fenced.labels("event").inc()
        return appended


def origin_of(d: Delivery) -> bytes:
    """What a row needs beside the events, should Postgres lose it."""
    if d.entry is None:
        return b""
    m = d.entry.message
    return msgspec.json.encode(Origin(d.entry_id, m.service_id, m.user_id, m.tier, d.entry.sha256))
