"""What this process holds for one delivery while it runs: the entry, the places, the attempt. The lease renews it.

Filled in by the pipeline step by step, read by `worker.lease`; the two meet nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from daemon.domain.events import Usage
from daemon.domain.messages import identity_of
from daemon.domain.permits import CallReport, GuardPlace
from daemon.pipeline.call_scope import CallScope
from daemon.ports import Delivery


@dataclass(slots=True)
class Trace:
    """What one delivery cost and where its time went, for the one log line and the metrics at its end. Seconds."""

    model_id: str = ""
    model_name: str = ""  #: what its provider calls it
    provider: str = ""
    wait_s: float | None = None  #: from acceptance to the claim; only for the first attempt
    first_token_s: float | None = None
    called_at: float | None = None  #: unix seconds when the last call of a model began
    execute_s: float | None = None
    finish_reason: str = ""
    answered_by: str = ""  #: the model as its provider names it in the answer
    usage: Usage | None = None
    closed: list[tuple[str, str]] = field(default_factory=list)  #: models that this delivery closed for all, and why
    detail: str = ""  #: for operators; free of content
    blobs_left: str = ""  #: why its images could not be removed; "" when they were, or there were none


@dataclass(slots=True, eq=False)
class Hold:
    """One delivery that is ours. Mutable on purpose: it is the lease's view of a running attempt."""

    delivery: Delivery
    scope: CallScope = field(default_factory=CallScope)
    attempt: int | None = None  #: set once Postgres has handed it out
    good_at: float = float("inf")  #: monotonic; when the lease was last known to be ours. inf: nobody beats for it yet
    stuck_after: float = float("inf")  #: monotonic; past it the call outlived its own clocks, and beats stop
    row_left: bool = False  #: the row is no longer `running` by our own doing: no heartbeat for it any more
    member: str = ""  #: our token in the guards; "" while we hold no place
    places: Sequence[GuardPlace] = ()
    report: CallReport | None = None  #: what to tell of the model when its place is given back
    trace: Trace = field(default_factory=Trace)
    blobs: Sequence[str] = ()  #: references of its images, dropped with the whole task
    settled: bool = False  #: the entry is no longer ours by our own doing: no beat for it any more

    @property
    def task_id(self) -> str:
        """The task; empty for an entry that can't be read."""
        return self.delivery.entry.message.task_id if self.delivery.entry else ""

    @property
    def ids(self) -> dict[str, str]:
        """What log lines and spans of this delivery carry; nothing for an entry that can't be read."""
        if self.delivery.entry is None:
            return {}
        task = identity_of(self.delivery.entry.message)
        return {"task_id": task.task_id, "request_id": task.request_id, "trace_id": task.trace_id}
