"""How one delivery can end: a closed set of values, each with what was already made durable.

`executor.execute` returns one of them and raises nothing but cancellation. The worker counts and logs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from daemon.domain.errors import Code
from daemon.domain.events import Reason, Usage


@dataclass(frozen=True, slots=True)
class Done:
    """Result committed, `done` appended, permits released, entry acked."""

    model_id: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Retrying:
    """The attempt failed and another one is due in `delay_s`; `error` with `retryable: true` was appended."""

    code: Code
    delay_s: float


@dataclass(frozen=True, slots=True)
class Snoozed:
    """The task waits for a place or for a model; no failure was counted."""

    reason: Reason
    delay_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """Terminal: the row says so, `error` was appended, a dead letter lies there (not for a cancelled task)."""

    code: Code


@dataclass(frozen=True, slots=True)
class Requeued:
    """Shutdown or self-fencing: the entry is in `:ready`; no failure was counted."""


@dataclass(frozen=True, slots=True)
class CompletedAgain:
    """The task had ended before: only its tail was repeated, without a model call."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """The entry was settled without running: a duplicate, another body under its task id, or poison."""

    why: Literal["duplicate", "task_id_conflict", "poison"]


@dataclass(frozen=True, slots=True)
class Fenced:
    """Another attempt or consumer owns the task: nothing was written."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Another owner runs the task by this very entry: it stays pending, and is tried again soon."""


@dataclass(frozen=True, slots=True)
class Abandoned:
    """A dependency stayed away, or (`crashed`) we have a bug: the entry is still pending, and found after a lease."""

    why: str
    crashed: bool = False


@dataclass(frozen=True, slots=True)
class Isolated:
    """A child process of ours has the entry: the task runs in quarantine."""


Outcome = (
    Done | Retrying | Snoozed | Failed | Requeued | CompletedAgain | Dropped | Fenced | Refused | Abandoned | Isolated
)
