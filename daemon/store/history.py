"""Rows of the ledger as operators read them: lists, the attempts of a task, sums over a window of time.

Every statement is bounded by an index and a limit, so that looking never costs what the history weighs; only `sums`
reads all of its window. Holds no prompt and no answer. Called by `admin`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from daemon.store.pool import Pool, Row
from daemon.store.sql import load_queries

ATTEMPTS_MAX: Final = 5000  #: of one look at the recent past


@dataclass(frozen=True, slots=True)
class ListedTask:
    """One line of a list. Times are unix seconds; None: not yet."""

    task_id: str
    queue_id: str
    service_id: str
    user_id: str
    model_id: str | None
    state: str
    attempt: int
    failures: int
    error_code: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One row of `attempts`; `outcome` None: it runs, or its process died."""

    attempt: int
    model_id: str | None
    started_at: float
    first_token_at: float | None
    finished_at: float | None
    outcome: str | None
    code: str | None
    output_tokens: int | None  #: None: unknown
    cost_usd: float | None


@dataclass(frozen=True, slots=True)
class Recent:
    """What ended lately, of one service: counts, seconds, tokens, US dollars. None: nothing to tell it from."""

    service_id: str
    outcomes: dict[str, int]  #: `done`, or the code it ended with -> attempts
    wait_p50_s: float | None
    wait_p95_s: float | None
    run_mean_s: float | None
    run_p95_s: float | None
    tokens: int
    cost_usd: float | None


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks to list; None: any."""

    states: Sequence[str] | None = None
    queue: str | None = None
    service: str | None = None
    user: str | None = None
    since_s: float | None = None
    before: float | None = None  #: accepted before this unix time: the next page
    limit: int = 50


@dataclass(frozen=True, slots=True)
class ServiceSum:
    """What became of the tasks that one service was sent in a window of time, or of all tasks (`service_id` None).

    Seconds are None when there is nothing to tell them from; tokens and cost are those of all attempts.
    """

    service_id: str | None
    tasks: int
    done: int
    failed: int
    expired: int
    cancelled: int
    open: int
    in_time: int  #: done, and within the time that was asked for
    wait_p50_s: float | None
    wait_p95_s: float | None
    total_p50_s: float | None  #: of those that are done, from acceptance to the end
    total_p95_s: float | None
    attempts: int
    failures: dict[str, int]  #: code of the end -> tasks
    attempt_failures: dict[str, int]  #: code -> attempts that failed, tried again or not
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost_usd: float | None
    cut: int = 0  #: answers that were cut at a limit


class History:
    """Reads only."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._sql = load_queries()

    async def tasks(self, only: TaskFilter) -> list[ListedTask]:
        """The newest first."""
        rows = await self._pool.fetch(
            self._sql["task_list"], list(only.states) if only.states else None, only.queue, only.service,
            only.user, only.since_s, only.before, only.limit,
        )  # fmt: skip
        return [ListedTask(**row) for row in rows]

    async def attempts(self, task_id: str) -> list[AttemptRow]:
        """All attempts of a task, the first first."""
        return [AttemptRow(**row) for row in await self._pool.fetch(self._sql["task_attempts"], task_id)]

    async def recent(self, window_s: float) -> list[Recent]:
        """Sums over the attempts that ended in the last `window_s`, by service; at most `ATTEMPTS_MAX` are read."""
        rows = await self._pool.fetch(self._sql["recent"], window_s, ATTEMPTS_MAX)
        return [_recent(row) for row in rows]

    async def sums(self, window_s: float, in_time_s: float) -> list[ServiceSum]:
        """One for each service that was sent a task in the last `window_s`, and the last one for all together.

        Reads every task of that time: for a report, not for a look.
        """
        rows = await self._pool.fetch(self._sql["service_sums"], window_s, in_time_s)
        return [_sum(row) for row in rows]


def _sum(row: Row) -> ServiceSum:
    counts = {name: dict(row[name]) for name in ("failures", "attempt_failures")}
    return ServiceSum(**{**row, **counts})


def _recent(row: Row) -> Recent:
    return Recent(**{**row, "outcomes": dict(row["outcomes"])})
