"""What the relay answers: one value for each verdict of Redis and for each error. Plain functions."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from daemon.domain.errors import CODES, Code, DependencyAway, QstreamdError, RedisFull, Rejected, TaskError
from daemon.observability.metrics import UNKNOWN
from daemon.queues.admission import Accepted, Conflict, Full, Verdict
from daemon.relay.ingest import Ingested

FULL_RETRY_AFTER_S: Final = 20  #: tasks of a minute leave a queue slowly


class RelayResponse(NamedTuple):
    """What a call gets; `outcome`, `queue` and `cause` are for our metrics and log only."""

    status: int
    body: Mapping[str, Any]
    outcome: str = ""
    queue: str = UNKNOWN
    cause: object = None


class Unauthorized(QstreamdError):
    """The call is not believed; the flaw is its text."""


def response_of(found: Ingested, verdict: Verdict) -> RelayResponse:
    """The answer to a message that Redis has judged."""
    task_id, queue = found.message.task_id, found.queue.name
    if isinstance(verdict, Full):
        body: dict[str, Any] = {"code": Code.QUEUE_FULL, "message": CODES[Code.QUEUE_FULL].en}
        if verdict.retry_after_s is not None:
            body["retryAfter"] = verdict.retry_after_s
        return RelayResponse(429, body, "full", queue)
    if isinstance(verdict, Conflict):
        text = f"taskId: {task_id} was accepted with another body"
        return RelayResponse(489, {"code": Code.INVALID_PAYLOAD, "message": text}, "conflict", queue)
    status = "queued" if isinstance(verdict, Accepted) else "duplicate"
    return RelayResponse(200, {"taskId": task_id, "status": status, "entryId": verdict.entry_id}, status, queue)


def refusal(problem: Exception) -> RelayResponse:
    """The answer to a call that went wrong before it was judged; what it tells has no secret and no server's words."""
    if isinstance(problem, Unauthorized):
        return RelayResponse(401, {"code": "BAD_SIGNATURE"}, "unauthorized", cause=problem)
    away = isinstance(problem, DependencyAway | RedisFull | TimeoutError)
    code = problem.code if isinstance(problem, TaskError) else Code.WORKER_OVERLOADED if away else Code.INTERNAL
    text = problem.message if isinstance(problem, TaskError) else CODES[code].en
    outcome = "rejected" if isinstance(problem, Rejected) else "unavailable"
    return RelayResponse(CODES[code].http_status or 500, {"code": code, "message": text}, outcome, cause=problem)


def retry_after(status: int, retried: str, known_s: float | None, away_s: float) -> int:
    """Seconds, growing with each try: QStash tries only three more times by default, and an outage may last.

    `known_s`: when a slot is likely free, as fast as the queue drains. `away_s`: the first wait while Redis is away.
    """
    usual = FULL_RETRY_AFTER_S if status == 429 else away_s
    base = usual if known_s is None else max(1.0, known_s)
    tries = int(retried) if retried in {"1", "2", "3", "4"} else 0
    return round(base * random.uniform(1, 1.5)) << 2 * tries
