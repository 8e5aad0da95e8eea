"""Puts back what Postgres knows and Redis has forgotten.

After FLUSHALL, a failover that lost writes, or an entry deleted while pending.

A task is put back only when two looks in a row, a period apart, found it nowhere in Redis and without a heartbeat in
Postgres, so nothing that Redis still holds is doubled. Even if it were: the claim lets one attempt run. One process
looks at a queue at a time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable

import msgspec

from daemon.config import LeaseSettings
from daemon.domain.errors import RedisAway, RedisFull, StoreAway
from daemon.observability.logging import logger
from daemon.observability.metrics import Metrics
from daemon.queues.streams import WorkStreams
from daemon.store.records import STALE_MAX, TaskRecords, TaskRow

_log = logger(__name__)

_PAGES_MAX = 100  #: of `STALE_MAX` rows: more than that wait in no queue of ours


class Rescuer:
    """Compares the queues of this process with Postgres, once in `compare_s`."""

    def __init__(
        self, work: WorkStreams, records: TaskRecords, queues: Iterable[str], settings: LeaseSettings, metrics: Metrics
    ) -> None:
        self._work = work
        self._records = records
        self._queues = list(queues)
        self._settings = settings
        self._metrics = metrics
        self._missing: dict[str, set[str]] = {}  # queue -> what the last look missed
        self._soon = asyncio.Event()

    def run_soon(self) -> None:
        """Something was lost just now: look soon."""
        self._soon.set()

    async def run(self) -> None:
        """Compare until cancelled. Idle it costs one short statement and one command a queue and period."""
        while True:
            pause = self._settings.compare_s * random.uniform(0.8, 1.0)
            try:
                async with asyncio.timeout(pause):
                    await self._soon.wait()
            except TimeoutError:
                pass
            self._soon.clear()
            for queue in self._queues:
                try:
                    await self._compare(queue)
                except (RedisAway, RedisFull, StoreAway) as error:
                    _log.warning("rescue.failed", queue=queue, error=type(error).__name__)
            if any(self._missing.values()):
                # The second look comes a lease later: what was on its way between two streams has arrived by then.
                await asyncio.sleep(self._settings.lease_s)
                self._soon.set()

    async def _compare(self, queue: str) -> None:
        missing = await self._lost_tasks(queue)
        again = missing.keys() & self._missing.get(queue, set())
        self._missing[queue] = missing.keys() - again
        if again and await self._work.begin_comparison(queue, int(self._settings.lease_s * 1000)):
            for task_id in sorted(again):
                await self._restore(queue, missing[task_id])

    async def _lost_tasks(self, queue: str) -> dict[str, TaskRow]:
        """What Postgres says should be in Redis and is not, page by page: a thousand parked tasks hide no lost one."""
        lost: dict[str, TaskRow] = {}
        last: TaskRow | None = None
        for page_number in range(_PAGES_MAX):
            page = await self._records.stale(queue, 2 * self._settings.lease_s, after=last)
            if page and page_number == 0 and (stranded := await self._work.rescue_stranded(queue)):
                _log.warning("entries.rescued", queue=queue, entries=stranded)
            rows = {row.task_id: row for row in page}
            known = await self._work.still_queued(queue, set(rows)) if rows else set()
            lost |= {task_id: row for task_id, row in rows.items() if task_id not in known}
            if len(page) < STALE_MAX:
                break
            last = page[-1]
        return lost

    async def _restore(self, queue: str, row: TaskRow) -> None:
        try:
            entry = row.entry()
        except msgspec.ValidationError:
            _log.error("task.restore_failed", queue=queue, task_id=row.task_id)
            return
        if await self._work.restore(queue, entry, int(self._settings.compare_s * 2000)):
            self._metrics.restored.labels(queue).inc()
            _log.warning("task.restored", queue=queue, task_id=row.task_id, state=row.state.value, attempt=row.attempt)
