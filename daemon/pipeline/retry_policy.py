"""Decide what a failed attempt leads to. Plain functions: error, counts, limits and chance in, verdict out.

Backoff is full jitter: uniform between 0 and min(cap, base * 2^failures); a Retry-After is a minimum, with jitter on
top.

    >>> backoff(RetrySettings(), failures=0, jitter=1.0)
    2.0
    >>> [backoff(RetrySettings(), failures=n, jitter=1.0) for n in (1, 2, 5, 9)]
    [4.0, 8.0, 60.0, 60.0]
"""

from __future__ import annotations

from dataclasses import dataclass

from daemon.config import RetrySettings
from daemon.domain.errors import CODES, Code, Disposition, ModelUnavailable, TaskError
from daemon.domain.events import Reason
from daemon.pipeline.permit_policy import delay_after_cooldown


@dataclass(frozen=True, slots=True)
class Retry:
    """A counted failure with attempts left."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class WaitForModel:
    """Not a failure: wait for the model to open."""

    delay_s: float
    reason: Reason


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Terminal."""


RetryDecision = Retry | WaitForModel | GiveUp


def decide(
    error: TaskError,
    *,
    failures: int,
    attempts_max: int,
    expires_in_s: float | None,
    retry: RetrySettings,
    jitter: float,
    available_in_s: float | None = None,
    first: bool = True,
) -> RetryDecision:
    """The verdict on an attempt that ended in `error`. `failures` were counted before it; `jitter` is in [0, 1).

    `available_in_s`: when a model that refused opens again, as all processes were told; `first`: this task goes before
    others then. A refusal in the middle of an answer is a failure like others: it cost what it cost. A retry that could
    only start after the task's expiry is given up at once, so that the viewer learns it now.
    """
    if isinstance(error, ModelUnavailable) and error.reason != "UNKNOWN_MODEL" and not error.midway:
        if available_in_s is not None:
            delay = available_in_s + delay_after_cooldown(retry, jitter, first=first)
        else:
            delay = (error.retry_after_s or 0.0) + retry.defer_s * (0.5 + jitter / 2)
        return _within(WaitForModel(delay, Reason.RATE_LIMITED), delay, expires_in_s)
    if CODES[error.code].disposition is Disposition.REJECT or failures + 1 >= attempts_max:
        return GiveUp()
    delay = max(backoff(retry, failures=failures, jitter=jitter), error.retry_after_s or 0.0)
    return _within(Retry(delay), delay, expires_in_s)


def backoff(retry: RetrySettings, *, failures: int, jitter: float) -> float:
    """Seconds until the next attempt after `failures` earlier ones."""
    return min(retry.cap_s, retry.base_s * 2.0**failures) * jitter


def final_code(error: TaskError, *, expires_in_s: float | None, failures: int, attempts_max: int) -> Code:
    """The code of a terminal event: EXPIRED when only the clock forbade another attempt, else the error's own."""
    spent = CODES[error.code].disposition is Disposition.REJECT or failures + 1 >= attempts_max
    return Code.EXPIRED if expires_in_s is not None and not spent else error.code


def _within(decision: RetryDecision, delay_s: float, expires_in_s: float | None) -> RetryDecision:
    return GiveUp() if expires_in_s is not None and delay_s >= expires_in_s else decision
