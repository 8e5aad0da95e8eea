"""Places at guards and models: what a task asks for, what it is answered, and what it tells when it leaves.

The words that the pipeline and the guards share; who decides is the adapter behind the `Guards` port.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from daemon.domain.events import Reason


@dataclass(frozen=True, slots=True)
class GuardPlace:
    """One guard a task needs a place in: its key and how many places there are."""

    key: str
    limit: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may serve an attempt: its own guard, its rates, and what the call is expected to use of them."""

    model_id: str
    tier: str
    place: GuardPlace
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens: int = 0  #: reserved until the real usage is known


@dataclass(frozen=True, slots=True)
class Ask:
    """What a task asks the guards for: a place in each of `shared`, and one of the first candidate that is open."""

    member: str  #: random for each acquisition; the same in a repeated call
    waiter: str  #: `queue/taskId`: who is woken when a place comes free
    since_ms: int  #: age: waiters are served in its order; later than true for a queue that gives way
    goes_first: bool  #: paying, or has waited long enough: may use the last of a rate
    shared: tuple[GuardPlace, ...]
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Entered:
    """All places are ours. `chosen` is the index of the candidate that was open."""

    chosen: int
    places: tuple[GuardPlace, ...]


@dataclass(frozen=True, slots=True)
class MustWait:
    """A guard is full: the task is woken when it is its turn. `rank` others wait before it.

    `place` None: it waits for an open breaker's probe.
    """

    place: GuardPlace | None
    rank: int


@dataclass(frozen=True, slots=True)
class Shut:
    """No candidate is open: `reason` of the one that opens first, and in how many ms.

    `in_line`: that time is this task's own turn at the model's rate, and nobody else's.
    """

    reason: Reason
    opens_in_ms: int
    in_line: bool


@dataclass(frozen=True, slots=True)
class CallReport:
    """What an attempt learned of its model; told with the release, and counted once."""

    candidate: Candidate
    #: `unused`: no call was made; `none`: it says nothing of the model
    outcome: Literal["unused", "none", "ok", "failed", "closed"] = "unused"
    tokens: int | None = None  #: really used; None: unknown, the reserved ones stay charged
    closed_ms: int = 0  #: closes the model for all processes for so long
    closed_why: str = ""
    slow_down: bool = False  #: too many at once: run fewer for a while
    requests: int = 1  #: sent to the model; one is reserved, what was sent beyond it is charged with the report
