"""One delivery that this process is working on: its entry, its permits, its attempt.

Written by its own methods only, which the pipeline calls step by step; read by `worker.lease`, which renews what is
held. The two meet nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import msgspec

from daemon.domain.events import Usage
from daemon.domain.messages import identity_of
from daemon.domain.model_io import Finished
from daemon.domain.permits import CallReport, Permit
from daemon.pipeline.call_scope import CallScope
from daemon.ports import Delivery

NEVER: Final = float("inf")


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
    usage: Usage | None = None  #: of the answer
    spent: Usage | None = None  #: of the last call, however it ended
    closed: list[tuple[str, str]] = field(default_factory=list)  #: models that this delivery closed for all, and why
    detail: str = ""  #: for operators; free of content
    blobs_left: str = ""  #: why its images could not be removed; "" when they were, or there were none

    def waited(self, seconds: float) -> None:
        """From acceptance to the claim."""
        self.wait_s = max(0.0, seconds)

    def asks(self, model_id: str, model_name: str, provider: str) -> None:
        """This model is asked from now on."""
        self.model_id, self.model_name, self.provider = model_id, model_name, provider

    def found_unavailable(self, model_id: str, reason: str) -> None:
        """A call of this delivery made the model unavailable for all."""
        self.closed.append((model_id, reason))

    def kept_blobs(self, why: str) -> None:
        """The images could not be removed."""
        self.blobs_left = why

    def commits(self, usage: Usage | None) -> None:
        """This is what the answer cost."""
        self.usage = usage

    def failed(self, detail: str) -> None:
        """Why, for operators; free of content."""
        self.detail = detail

    def answered(self, finished: Finished, first_token_at: float | None, called_at: float) -> None:
        """A model called at `called_at` (unix s) has answered; its first token came at `first_token_at`."""
        self.finish_reason, self.answered_by = finished.reason or "", finished.model_name
        if first_token_at is not None:
            self.first_token_s = max(0.0, first_token_at - called_at)


class HeldPermits(NamedTuple):
    """The permits of one acquisition, and what to report of the model when they are released."""

    token: str  #: ours in the limiter; "" while none is held
    permits: Sequence[Permit]
    report: CallReport | None


NO_PERMITS: Final = HeldPermits("", (), None)


@dataclass(slots=True, eq=False)
class InFlight:
    """One delivery under way. Only its methods change it, each named after what has happened."""

    delivery: Delivery
    scope: CallScope = field(default_factory=CallScope)
    attempt: int | None = None  #: set once Postgres has handed it out
    renewed_at: float = NEVER  #: monotonic; when the lease was last known to be ours. NEVER: it is not renewed yet
    hard_deadline: float = NEVER  #: monotonic; past it the call ignored its own timeouts, and renewal stops
    row_released: bool = False  #: the row is no longer `running` by our own doing: no heartbeat for it any more
    held: HeldPermits = NO_PERMITS
    trace: Trace = field(default_factory=Trace)
    blobs: Sequence[str] = ()  #: references of its images, dropped with the whole task
    crash_seen: bool = False  #: its process died in quarantine before our eyes: it is taken over to be ended
    settled: bool = False  #: the entry is no longer ours by our own doing: its lease is not renewed any more

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

    @property
    def event_attempt(self) -> int:
        """The attempt that events are appended for; -1, before a claim: whichever the stream saw last."""
        return -1 if self.attempt is None else self.attempt

    def lease_renewed(self, now: float) -> None:
        """The entry was ours at `now` (monotonic)."""
        self.renewed_at = now

    def found_blobs(self, references: Sequence[str]) -> None:
        """These images belong to the task."""
        self.blobs = references

    def leaves_note(self, **notes: Any) -> None:
        """The entry says so to whoever reads it next."""
        if self.delivery.entry is not None:
            self.delivery = replace(self.delivery, entry=msgspec.structs.replace(self.delivery.entry, **notes))

    def claimed(self, attempt: int) -> None:
        """Postgres handed out the attempt."""
        self.attempt = attempt

    def released_row(self) -> None:
        """The row has left `running`."""
        self.row_released = True

    def acquired_permits(self, token: str, permits: Sequence[Permit], report: CallReport) -> None:
        """The limiter granted `permits`."""
        self.held = HeldPermits(token, permits, report)

    def keeps_permits(self, permits: Sequence[Permit]) -> None:
        """Only `permits` are renewed from now on: the others are being given back."""
        self.held = HeldPermits(self.held.token, permits, None)

    def learned(self, report: CallReport) -> None:
        """What a call told of its model, to be reported with the release."""
        self.held = self.held._replace(report=report)

    def released_permits(self) -> None:
        """Nothing is held any more."""
        self.held = NO_PERMITS

    def call_began(self, deadline: float, wall: float) -> None:
        """A model is called at `wall` (unix s); by `deadline` (monotonic) its own timeouts must have ended the call."""
        self.hard_deadline, self.trace.called_at = deadline, wall

    def call_ended(self, seconds: float, spent: Usage | None) -> None:
        """The call has taken so long and cost so much, however it ended."""
        self.hard_deadline = NEVER
        self.trace.execute_s, self.trace.spent = seconds, spent

    def settled_entry(self) -> None:
        """The entry was acknowledged, snoozed, requeued or dead-lettered by us."""
        self.settled = True
