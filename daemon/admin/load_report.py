"""What a load came to: waits and times by queue, ends, refusals. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from daemon.admin.load_generator import Progress, Sent


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds at three places; None: nothing was measured."""

    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class QueueReport:
    """One queue."""

    queue: str
    sent: int
    accepted: int
    done: int
    failed: int
    unended: int
    answer: Spread  #: of the relay
    wait: Spread  #: from the call to `started`
    first_token: Spread
    total: Spread  #: from the call to the terminal event
    in_sla: float | None  #: share of the accepted that were done within the promise
    more_attempts: int  #: tasks that took more than one


@dataclass(frozen=True, slots=True)
class LoadReport:
    """All of it."""

    queues: list[QueueReport]
    codes: dict[str, int]  #: of tasks that ended badly
    refusals: dict[str, int]  #: HTTP status of calls that were not accepted; 0: no answer
    waits: dict[str, int]  #: reasons that were told
    wrong: int
    held: int
    good: bool  #: every accepted task ended, and every wrong call was answered as it must be


def report(tasks: Iterable[Sent], progress: Progress, sla_s: float) -> LoadReport:
    """Sums by queue; the last line is all of them when there is more than one."""
    everything = sorted(tasks, key=lambda task: task.queue)
    queues = [_queue(name, list(members), sla_s) for name, members in groupby(everything, key=lambda task: task.queue)]
    if len(queues) > 1:
        queues.append(_queue("all", everything, sla_s))
    codes = Counter(task.end for task in everything if task.end not in {"", "done"})
    refusals = Counter(str(task.status) for task in everything if task.answered_at is not None and task.status != 200)
    waits = Counter(reason for task in everything for reason in task.waits)
    unended = any(task.status == 200 and task.ended_at is None for task in everything)
    return LoadReport(
        queues, dict(codes), dict(refusals), dict(waits), progress.wrong, progress.held,
        good=not unended and progress.wrong == progress.held,
    )  # fmt: skip


def _queue(name: str, tasks: Sequence[Sent], sla_s: float) -> QueueReport:
    accepted = [task for task in tasks if task.status == 200]
    done = [task for task in accepted if task.end == "done"]
    in_time = sum(task.ended_at is not None and task.ended_at - task.sent_at <= sla_s for task in done)
    return QueueReport(
        queue=name, sent=len(tasks), accepted=len(accepted), done=len(done),
        failed=sum(task.end not in {"", "done"} for task in accepted),
        unended=sum(task.ended_at is None for task in accepted),
        answer=spread((task.sent_at, task.answered_at) for task in tasks),
        wait=spread((task.sent_at, task.started_at) for task in accepted),
        first_token=spread((task.sent_at, task.first_token_at) for task in accepted),
        total=spread((task.sent_at, task.ended_at) for task in accepted),
        in_sla=in_time / len(accepted) if accepted else None,
        more_attempts=sum(task.attempts > 1 for task in accepted),
    )  # fmt: skip


def spread(pairs: Iterable[tuple[float, float | None]]) -> Spread:
    """Percentiles of the differences that are known."""
    known = sorted(until - since for since, until in pairs if until is not None)
    if not known:
        return Spread(None, None, None)
    return Spread(*(known[min(len(known) - 1, int(share * len(known)))] for share in (0.5, 0.95, 0.99)))
