"""Ends the tasks that wait in one queue, many at a time: three round trips a batch, whatever is in it.

In the order of the law: rows, events, images, then out of the queue. A crash in between is healed by whoever reads an
entry next: it finds the task ended and repeats the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

from daemon.domain import events
from daemon.domain.errors import CODES, Code, DependencyAway
from daemon.domain.events import Stage
from daemon.domain.states import State
from daemon.observability.logging import logger
from daemon.pipeline.model_request import references
from daemon.ports import Blobs
from daemon.queues.backlog import Backlog, BacklogEntry
from daemon.store.pool import StatementRefused
from daemon.store.tasks import PostgresLedger

BATCH_BYTES_MAX: Final = 4 * 1024 * 1024  #: of messages in one statement; a task's may have 1 MiB
DROPS_AT_ONCE: Final = 16
_DROP_S: Final = 3.0  #: a store that is slow now is left to the sweep

_log = logger(__name__)


class Purge:
    """One purge of one queue; may be repeated."""

    def __init__(self, queue: str, backlog: Backlog, ledger: PostgresLedger, blobs: Blobs) -> None:
        self._queue = queue
        self._backlog = backlog
        self._ledger = ledger
        self._blobs = blobs
        self._dropping = True
        self.ended = 0  #: tasks so far, by their rows

    async def end(self, batch: Sequence[BacklogEntry]) -> None:
        """End those of these that neither run nor have ended otherwise. Raises `DependencyAway` and `RedisFull`."""
        over = await self._end_rows(batch)
        self.ended += len(over)
        mine = [waiting for waiting in batch if waiting.entry.message.task_id in over]
        draft = events.error(Stage.QUEUE, Code.CANCELLED, CODES[Code.CANCELLED].en, retryable=False)
        await self._backlog.tell(mine, draft, must=True)
        await self._drop_images(mine)
        await self._backlog.remove(self._queue, mine)

    async def _end_rows(self, batch: Sequence[BacklogEntry]) -> set[str]:
        wanted = [(waiting.entry, waiting.entry_id) for waiting in batch]
        try:
            return await self._ledger.end_unclaimed_many(wanted, State.CANCELLED, Code.CANCELLED)
        except StatementRefused as error:  # one of them: it stays where it is, the others need not
            if len(batch) == 1:
                _log.warning("purge.refused", task_id=batch[0].entry.message.task_id, why=error.detail)
                return set()
            half = len(batch) // 2
            return await self._end_rows(batch[:half]) | await self._end_rows(batch[half:])

    async def _drop_images(self, batch: Sequence[BacklogEntry]) -> None:
        """What lies outside Redis; on another host's disk, or in a store that does not answer, it is the sweep's."""
        gate = asyncio.Semaphore(DROPS_AT_ONCE)

        async def drop(waiting: BacklogEntry) -> None:
            async with gate:
                await self._blobs.drop(references(waiting.entry.message), waiting.entry.message.user_id)

        with_images = [waiting for waiting in batch if waiting.entry.message.images]
        if not with_images or not self._dropping:
            return
        try:
            async with asyncio.timeout(_DROP_S), asyncio.TaskGroup() as group:
                for waiting in with_images:
                    group.create_task(drop(waiting))
        except* (DependencyAway, TimeoutError) as away:
            self._dropping = False
            _log.warning("blobs.cleanup_failed", queue=self._queue, why=type(away.exceptions[0]).__name__)


def batches(page: Sequence[BacklogEntry]) -> Iterator[list[BacklogEntry]]:
    """`page` in parts that one statement may carry."""
    batch: list[BacklogEntry] = []
    size = 0
    for waiting in page:
        if batch and size + waiting.size > BATCH_BYTES_MAX:
            yield batch
            batch, size = [], 0
        batch.append(waiting)
        size += waiting.size
    if batch:
        yield batch
