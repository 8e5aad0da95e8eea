"""Rows of the ledger as others look at them: the gateway (one task), the sweeper (forgotten ones), operators (replay).

Never on the way of an attempt: that is `store.tasks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from daemon.domain.errors import Code
from daemon.domain.messages import TaskMessage, WorkEntry
from daemon.domain.states import State
from daemon.ports import StoredResult
from daemon.store.pool import Pool, Row
from daemon.store.sql import load_queries
from daemon.store.task_rows import stored_result

STALE_MAX: Final = 100  #: rows of one look of the sweeper


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One row of `tasks`. All times are unix seconds; None: not yet."""

    task_id: str
    queue_id: str
    entry_id: str
    service_id: str
    user_id: str
    tier: str | None
    model_id: str | None
    request_id: str
    trace_id: str
    state: State
    attempt: int
    failures: int
    crashes: int
    owner: str | None
    error_code: Code | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    heartbeat_at: float
    message: str  #: JSON as accepted, without image bytes
    body_sha256: str

    def entry(self) -> WorkEntry:
        """The work entry to append again. Raises `msgspec.ValidationError` for a message of a newer release."""
        message = msgspec.json.decode(self.message, type=TaskMessage)
        return WorkEntry(message=message, sha256=self.body_sha256, accepted_at=round(self.created_at * 1000))


class TaskRecords:
    """Reads rows, and starts ended tasks anew."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._sql = load_queries()

    async def row(self, task_id: str) -> tuple[TaskRow, StoredResult | None] | None:
        """The task and its result, if any; None when nothing has claimed or ended it yet."""
        rows = await self._pool.fetch(self._sql["row"], task_id)
        return _with_result(rows[0]) if rows else None

    async def ended(self, task_ids: Sequence[str]) -> list[tuple[TaskRow, StoredResult | None]]:
        """Those of `task_ids` that have ended, with their results; one statement for any number."""
        return [_with_result(row) for row in await self._pool.fetch(self._sql["ended"], list(task_ids))]

    async def over(self, task_ids: Sequence[str]) -> dict[str, bool]:
        """Those of `task_ids` that have a row, and whether they have ended; one statement for any number."""
        return {row["task_id"]: row["over"] for row in await self._pool.fetch(self._sql["over"], list(task_ids))}

    async def write_back(self, row: Mapping[str, Any]) -> None:
        """Insert a task that ended with `done`, and its result if `content` is not None, unless it has a row."""
        await self._pool.fetch(self._sql["write_back"], row)

    async def cancel_waiting(self, task_id: str) -> bool:
        """End a task that waits (`queued`, `retrying`) as `cancelled`; False: it runs, has ended, or has no row."""
        return bool(await self._pool.fetch(self._sql["cancel_waiting"], task_id))

    async def stale(
        self, queue: str, older_s: float, limit: int = STALE_MAX, after: TaskRow | None = None
    ) -> list[TaskRow]:
        """Live rows of `queue` without a sign of life for `older_s`, oldest first; they may still wait in Redis.

        A page of at most `limit`; the next one begins `after` the last row of the one before.
        """
        page = (after.created_at, after.task_id) if after is not None else (0.0, "")
        return [_task_row(r) for r in await self._pool.fetch(self._sql["forgotten"], queue, older_s, limit, *page)]

    async def replay(self, task_id: str, actor: str, reason: str) -> TaskRow | None:
        """Start a `failed` or `expired` task anew and say so in the audit log; the fence goes on, counts begin at 0.

        None: it is not there, or in no such state (also when an earlier try of this call did it: it is `queued` then).
        The caller appends `entry()` and begins its event stream again.
        """
        rows = await self._pool.fetch(self._sql["replay"], task_id, actor, reason)
        return _task_row(rows[0]) if rows else None


def _with_result(row: Row) -> tuple[TaskRow, StoredResult | None]:
    if row["id"] is None:
        return _task_row(row), None
    return _task_row(row), stored_result({**row, "model_id": row["result_model_id"]})


def _task_row(row: Row) -> TaskRow:
    return TaskRow(
        task_id=row["task_id"], queue_id=row["queue_id"], entry_id=row["entry_id"], service_id=row["service_id"],
        user_id=row["user_id"], tier=row["tier"], model_id=row["model_id"], request_id=row["request_id"],
        trace_id=row["trace_id"], state=State(row["state"]), attempt=row["attempt"], failures=row["failures"],
        crashes=row["crashes"], owner=row["owner"], error_code=Code(row["error_code"]) if row["error_code"] else None,
        created_at=row["created_at"], started_at=row["started_at"], finished_at=row["finished_at"],
        heartbeat_at=row["heartbeat_at"], message=row["message"], body_sha256=row["body_sha256"],
    )  # fmt: skip
