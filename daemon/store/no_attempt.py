"""What the ledger does for a delivery that gets no attempt: it ends unclaimed, or another task has its id."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from daemon.domain.errors import Code
from daemon.domain.messages import WorkEntry
from daemon.domain.queues import QueueSpec
from daemon.domain.states import State
from daemon.store.pool import Pool
from daemon.store.sql import load_queries
from daemon.store.task_rows import conflict_in, task_columns


class NoAttempt:
    """That part of `daemon.ports.Ledger`. Each method is one statement and may be repeated."""

    def __init__(self, pool: Pool, queues: Callable[[], Mapping[str, QueueSpec]]) -> None:
        self._pool = pool
        self._sql = load_queries()
        self._queues = queues

    async def end_unclaimed(self, entry: WorkEntry, state: State, code: Code, entry_id: str) -> bool:
        """See `Ledger.end_unclaimed`. True as well when the same entry ended it in the same way before."""
        return entry.message.task_id in await self.end_unclaimed_many([(entry, entry_id)], state, code)

    async def end_unclaimed_many(self, ended: Sequence[tuple[WorkEntry, str]], state: State, code: Code) -> set[str]:
        """The ids of those that ended, in one statement; of two entries of one task the first counts. Repeatable."""
        rows = {
            entry.message.task_id: task_columns(entry, entry.message.queue_id, entry_id, None, self._queues())
            for entry, entry_id in reversed(ended)
        }
        ordered = [rows[task_id] for task_id in sorted(rows)]  # one lock order for all processes
        return {row["task_id"] for row in await self._pool.fetch(self._sql["end_unclaimed"], ordered, state, code)}

    async def task_id_conflict(self, queue: str, entry: WorkEntry) -> str:
        """See `Ledger.task_id_conflict`."""
        rows = await self._pool.fetch(self._sql["identity"], entry.message.task_id)
        return conflict_in(rows[0], queue, entry) if rows else ""

    async def release_claim(
        self, task_id: str, entry_id: str, owner: str, lease_s: float, dead_owners: Sequence[str] = ()
    ) -> bool:
        """See `Ledger.release_claim`; a crash is counted as a claim would."""
        sql = self._sql["let_go"]
        return not await self._pool.fetch(sql, task_id, entry_id, owner, lease_s, list(dead_owners))
