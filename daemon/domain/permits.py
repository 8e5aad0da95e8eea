"""Permits of the concurrency limiter: what a task requests, what it is granted, and what it reports at the release."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from daemon.domain.events import Reason


def nonce_of(owner: str) -> str:
    """The last part of an owner's name: 8 hex digits that begin the second part of all its permit tokens."""
    return owner.rpartition("-")[2]


@dataclass(frozen=True, slots=True)
class Permit:
    """A permit that a task needs: the key of its limiter, and how many there are at once."""

    key: str
    limit: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may serve an attempt: its own permit, its rates, and what the call is expected to use of them."""

    model_id: str
    tier: str
    permit: Permit
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens: int = 0  #: reserved until the real usage is known


@dataclass(frozen=True, slots=True)
class PermitRequest:
    """What a task asks the limiter for: each of `shared`, and that of the first candidate that is available."""

    token: str  #: random for each acquisition; the same in a repeated call
    waiter: str  #: `queue/taskId`: who is woken when a permit comes free
    since_ms: int  #: age: waiters are served in its order; later than true for a queue that gives way
    has_priority: bool  #: paying, or has waited long enough: may use the last of a rate
    shared: tuple[Permit, ...]
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Granted:
    """All permits are ours. `chosen` is the index of the available candidate."""

    chosen: int
    permits: tuple[Permit, ...]


@dataclass(frozen=True, slots=True)
class WaitForPermit:
    """A limiter is full: the task is woken when it is its turn. `rank` others wait before it.

    `permit` None: it waits for an open breaker's probe.
    """

    permit: Permit | None
    rank: int


@dataclass(frozen=True, slots=True)
class NoModelAvailable:
    """No candidate is available: `reason` of the one that is first again, and in how many ms.

    `in_line`: that time is this task's own turn at the model's rate, and nobody else's.
    """

    reason: Reason
    opens_in_ms: int
    in_line: bool


Denied = WaitForPermit | NoModelAvailable


@dataclass(frozen=True, slots=True)
class CallReport:
    """What an attempt learned of its model; reported with the release, and counted once."""

    candidate: Candidate
    #: `unused`: no call was made; `none`: it says nothing of the model
    outcome: Literal["unused", "none", "ok", "failed", "closed"] = "unused"
    tokens: int | None = None  #: really used; None: unknown, the reserved ones stay charged
    cooldown_ms: int = 0  #: no process calls the model for so long
    cooldown_reason: str = ""
    slow_down: bool = False  #: too many at once: run fewer for a while
    requests: int = 1  #: sent to the model; one is reserved, what was sent beyond it is charged with the report
