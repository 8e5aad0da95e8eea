"""What an operator orders for queues: pause, resume, set, drain, purge. Each is audited with who and why.

Shared by the command line and the admin API. Every order may be repeated; running tasks are never touched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from daemon.admin.purge import Purge, batches
from daemon.domain.events import EventDraft, Reason, Stage, progress
from daemon.events.log import EventLog
from daemon.limiter.permits import RedisLimiter
from daemon.ports import Blobs, Clock
from daemon.queues.backlog import Backlog
from daemon.queues.control import Control, Controls
from daemon.queues.depths import DepthReader, QueueDepth
from daemon.redis_client.scripts import Scripts
from daemon.store.audit import AuditLog
from daemon.store.pool import Pool
from daemon.store.tasks import PostgresLedger

TOLD_MAX: Final = 100_000  #: viewers of one queue that a pause tells why they wait
_LOOK_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Operator:
    """Who orders, from where."""

    name: str  #: such as `cli:alice` or `api`
    role: str = "operator"
    ip: str = ""


@dataclass(frozen=True, slots=True)
class QueueView:
    """One queue as an operator sees it."""

    queue: str
    control: Control
    depth: QueueDepth


class QueueOrders:
    """Orders for the queues of one deployment."""

    def __init__(
        self,
        scripts: Scripts,
        events: EventLog,
        pool: Pool | None,
        clock: Clock,
        ledger: PostgresLedger | None = None,
        blobs: Blobs | None = None,
    ) -> None:
        self._controls = Controls(scripts, clock)
        self._depths = DepthReader(scripts)
        self._limiter = RedisLimiter(scripts)
        self._ledger = ledger
        self._blobs = blobs
        self._backlog = Backlog(scripts, events)
        self._pool = pool
        self._clock = clock

    async def view(self, queues: Sequence[str]) -> list[QueueView]:
        """What is said of each queue and what lies in it."""
        controls = await self._controls.read(queues)
        depths = await self._depths.read(queues, ())
        return [QueueView(depth.queue, controls[depth.queue], depth) for depth in depths.queues]

    async def pause(self, queues: Sequence[str], by: Operator, why: str) -> int:
        """Let nothing start any more; how many waiting viewers were told why. Running tasks go on."""
        await self._controls.change(queues, {"paused": 1}, who=by.name, why=why)
        told = 0
        draft = progress(Stage.QUEUE, paused_text(why), reason=Reason.QUEUE_PAUSED)
        for queue in queues:
            await self._limiter.forget_waiters(queue)
            told += await self._tell(queue, draft)
        await self._audit("queue.pause", queues, by, why, {"told": told})
        return told

    async def resume(self, queues: Sequence[str], by: Operator, why: str) -> None:
        """Let tasks start again, in the order in which they came."""
        for queue in queues:
            await self._backlog.hasten(queue)
        await self._controls.change(queues, {"paused": None}, who=by.name, why=why)
        await self._audit("queue.resume", queues, by, why, {})

    async def set(self, queues: Sequence[str], fields: Mapping[str, int | None], by: Operator, why: str) -> None:
        """Set parallelism, maximum size or global parallelism (wire names); None takes one back."""
        await self._controls.change(queues, fields, who=by.name, why=why)
        await self._audit("queue.set", queues, by, why, dict(fields))

    async def drain(self, queue: str, by: Operator, why: str, timeout_s: float) -> QueueDepth:
        """Accept nothing more and wait until nothing is left, or `timeout_s`; what was left then."""
        await self.set([queue], {"maxSize": 0}, by, why)
        deadline = self._clock.monotonic() + timeout_s
        while True:
            (depth,) = (await self._depths.read([queue], ())).queues
            if not depth.waiting + depth.running + depth.delayed or self._clock.monotonic() > deadline:
                return depth
            await asyncio.sleep(_LOOK_S)

    async def purge(self, queue: str, by: Operator, why: str, told: Callable[[int], object] | None = None) -> int:
        """End every task that waits as CANCELLED (row, event, place, images); how many. Running ones go on.

        `told` hears after each batch how many it looked at. Raises `DependencyAway` or `RedisFull` when a server fails
        it: then nothing more is ended.
        """
        assert self._ledger is not None
        assert self._blobs is not None
        await self._limiter.forget_waiters(queue)
        purge = Purge(queue, self._backlog, self._ledger, self._blobs)
        try:
            async for page in self._backlog.pages(queue):
                for batch in batches(page):
                    await purge.end(batch)
                    if told is not None:
                        told(len(batch))
        finally:
            await self._audit("queue.purge", [queue], by, why, {"ended": purge.ended})
        return purge.ended

    async def _tell(self, queue: str, draft: EventDraft) -> int:
        told = 0
        async for page in self._backlog.pages(queue):
            await self._backlog.tell(page, draft)
            told += len(page)
            if told >= TOLD_MAX:
                break
        return told

    async def _audit(
        self, action: str, queues: Sequence[str], by: Operator, why: str, params: Mapping[str, Any]
    ) -> None:
        """The order was carried out; its row is written if Postgres is there, and said in the control hash anyway."""
        if self._pool is None:
            return
        log = AuditLog(self._pool, self._clock)
        for queue in queues:
            told = {**params, "reason": why}
            log.note(action, queue, actor=by.name, role=by.role, ip=by.ip, result="done", params=told)
        await log.flush()


def paused_text(why: str) -> str:
    """What a waiting viewer reads."""
    return f"the queue is paused: {why}" if why else "the queue is paused"
