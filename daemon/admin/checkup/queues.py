"""What is wrong in the queues right now. Pure: an overview in, findings out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from daemon.admin.checkup.finding import Finding, error, info, ok, warning
from daemon.admin.status import Overview, QueueState

OVERDUE_S: Final = 30.0
LATE_S: Final = 300.0  #: the usual promise to users


def check(overview: Overview) -> list[Finding]:
    """Queues, then consumers."""
    found = [finding for queue in overview.queues for finding in _queue(queue)]
    stuck = [c for c in overview.consumers if c.alive is False and c.pending]
    if stuck:
        tasks = sum(c.pending for c in stuck)
        found.append(
            warning(
                "queues.lapsed", f"{tasks} tasks are in hand of {len(stuck)} consumers that went silent",
                "they are taken over within a lease if a daemon reads those queues: python -m daemon consumers",
            )
        )  # fmt: skip
    return found or [ok("queues", "every queue is read, none is full, nothing is overdue")]


def _queue(q: QueueState) -> Iterator[Finding]:
    there = q.waiting + q.running + q.delayed
    if not q.consumers and there:
        cure = f"python -m daemon --queues {q.name}"
        yield error("queues.unread", f"{q.name} holds {there} tasks and nobody reads it", cure)
    elif not q.consumers:
        cure = f"if tasks are meant for it: python -m daemon --queues {q.name}"
        yield info("queues.unread", f"nobody reads {q.name}; it is empty", cure)
    if q.paused:
        why = f" ({q.paused_why})" if q.paused_why else ""
        yield warning("queues.paused", f"{q.name} is paused{why}", f"python -m daemon queues resume {q.name}")
    if q.places >= q.max_size:
        cure = "`capacity` says how many slots it needs; QUEUE_MAX_* is how many may wait"
        yield error("queues.full", f"{q.name} is full: {q.places} of {q.max_size} places are taken", cure)
    elif q.oldest_wait_s is not None and q.oldest_wait_s > LATE_S:
        text = f"the oldest task of {q.name} has waited {q.oldest_wait_s:.0f} s"
        yield warning("queues.late", text, "more slots, or `tasks explain` of it")
    if q.next_due_s is not None and q.next_due_s < -OVERDUE_S:
        text = f"a delayed task of {q.name} is overdue by {-q.next_due_s:.0f} s: no process moves it"
        yield error("queues.overdue", text, f"python -m daemon --queues {q.name}, or restart the one that reads it")
    if q.dead:
        yield warning(
            "queues.dead", f"{q.name} has {q.dead} dead letters", f"python -m daemon dlq list --queue {q.name}"
        )
