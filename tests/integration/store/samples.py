"""Deliveries, answers and looks at the tables, as the tests of the store need them."""

from __future__ import annotations

import asyncio
from typing import Any

from daemon.domain.clock import SystemClock
from daemon.domain.events import Usage
from daemon.domain.messages import TaskMessage, WorkEntry, content_sha256
from daemon.ports import Claimed, ClaimOutcome, Delivery, ResultDraft
from daemon.store.pool import Pool, Row

LEASE_S = 20.0
CLOCK = SystemClock()
QUEUE = "q_paid_stream"


def delivery(
    task_id: str, entry: str = "1-0", *, queue: str = QUEUE, sha256: str = "sha", stream: str = "tasks", **fields: Any
) -> Delivery:
    """One pending entry; inline input unless `variables=None` says ID-first."""
    fields = {"variables": {"text": "hello"}, "user_id": "u1", "service_id": "echo", **fields}
    message = TaskMessage(task_id=task_id, queue_id=queue, **fields)
    entry_ = WorkEntry(message=message, sha256=sha256, accepted_at=round(CLOCK.time() * 1000) - 1500)
    return Delivery(queue, stream, entry, entry_)


def draft(content: str = "the answer", data: Any = None) -> ResultDraft:
    """What an attempt commits."""
    usage = Usage(input_tokens=7, cached_input_tokens=1, output_tokens=3, reasoning_tokens=2, cost_usd=0.0125)
    return ResultDraft(content, data, content_sha256(content), "m1", usage, CLOCK.time())


def claimed(answer: ClaimOutcome) -> Claimed:
    """`answer`, which must be a claim."""
    assert isinstance(answer, Claimed), answer
    return answer


async def task(pool: Pool, task_id: str) -> Row:
    """The row of a task."""
    return (await pool.fetch("SELECT * FROM qstreamd.tasks WHERE task_id = $1", task_id))[0]


async def outcomes(pool: Pool, task_id: str) -> list[tuple[int, str | None, str | None]]:
    """(attempt, outcome, code) of every attempt; an outcome without an end, or the reverse, fails."""
    rows = await pool.fetch("SELECT * FROM qstreamd.attempts WHERE task_id = $1 ORDER BY attempt", task_id)
    assert all((r["finished_at"] is None) == (r["outcome"] is None) for r in rows), rows
    return [(r["attempt"], r["outcome"], r["code"]) for r in rows]


async def let_heartbeat_lapse(pool: Pool, task_id: str) -> None:
    """As if the owner had been dead for longer than any lease."""
    await pool.fetch("UPDATE qstreamd.tasks SET heartbeat_at = now() - interval '1 hour' WHERE task_id = $1", task_id)


async def rows_of(pool: Pool, sql: str, *args: object, within_s: float = 10) -> list[Row]:
    """What `sql` finds, asked again and again until it finds something."""
    async with asyncio.timeout(within_s):
        while not (rows := await pool.fetch(sql, *args)):  # noqa: ASYNC110  # the event is in another process
            await asyncio.sleep(0.005)
    return rows
