"""Judge a refused place.

Plain function: what was refused, since when the task waits, limits and chance in; decision out.
"""

from __future__ import annotations

from dataclasses import dataclass

from daemon import keys
from daemon.config import GuardSettings, RetrySettings
from daemon.contracts import Reason, WorkEntry
from daemon.ports import GuardPlace


@dataclass(frozen=True, slots=True)
class WaitForPlace:
    """Park, and ask again in `delay_s`. `since_ms`: when this wait began (unix ms)."""

    reason: Reason
    delay_s: float
    since_ms: int


def denied(
    entry: WorkEntry, place: GuardPlace, now_ms: int, guards: GuardSettings, retry: RetrySettings, jitter: float
) -> WaitForPlace | None:
    """What to do with a task that found `place` full.

    None when it has waited too long and ends as WORKER_OVERLOADED.
    """
    since_ms = entry.parked_at or now_ms
    if now_ms - since_ms > guards.wait_max_s * 1000:
        return None
    reason = Reason.GUARD_USER if place.key.startswith(keys.guard_user("")) else Reason.GUARD_MODEL
    return WaitForPlace(reason, retry.guard_s * (0.5 + jitter / 2), since_ms)
