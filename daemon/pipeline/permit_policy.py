"""What follows a refusal of the limiters, and what puts a model in cooldown. Plain functions."""

from __future__ import annotations

from dataclasses import dataclass

from daemon.config import GuardSettings, RetrySettings
from daemon.domain.errors import Code, ModelUnavailable, TaskError
from daemon.domain.events import Reason
from daemon.domain.messages import WorkEntry
from daemon.domain.permits import CallReport, Candidate, NoModelAvailable, Permit
from daemon.redis_client import keys


@dataclass(frozen=True, slots=True)
class Snooze:
    """Park. `delay_s`: when to ask unasked. `since_ms`: when this wait began (unix ms)."""

    reason: Reason
    delay_s: float
    since_ms: int
    wakeable: bool = True  #: the limiter notifies it before that, when it is its turn


def snooze_for_permit(
    entry: WorkEntry,
    permit: Permit | None,
    now_ms: int,
    settings: GuardSettings,
    retry: RetrySettings,
    jitter: float,
    rank: int = 0,
) -> Snooze | None:
    """What to do with a task that found `permit` full (None: an open breaker's probe is out), `rank` others before it.

    None when it has waited too long and ends as WORKER_OVERLOADED. It will be called; the delay is for the case that
    everything about the waiters was lost, so it grows with the rank: a crowd that asks unasked would be a poll.
    """
    since_ms = entry.parked_at or now_ms
    if now_ms - since_ms > settings.wait_max_s * 1000:
        return None
    delay_s = retry.guard_s * (0.5 + jitter / 2) * max(1.0, rank / 100)
    return Snooze(_reason(permit), min(delay_s, _left_s(since_ms, now_ms, settings)), since_ms)


def snooze_until_available(
    entry: WorkEntry,
    reply: NoModelAvailable,
    now_ms: int,
    settings: GuardSettings,
    retry: RetrySettings,
    jitter: float,
    *,
    first: bool,
) -> Snooze | None:
    """What to do when no model is available; None as in `snooze_for_permit`. `first`: it goes before others."""
    since_ms = entry.parked_at or now_ms
    if now_ms - since_ms > settings.wait_max_s * 1000:
        return None
    delay_s = reply.opens_in_ms / 1000 + (0.0 if reply.in_line else delay_after_cooldown(retry, jitter, first=first))
    return Snooze(reply.reason, min(delay_s, _left_s(since_ms, now_ms, settings)), since_ms, wakeable=False)


def has_priority(entry: WorkEntry, now_ms: int, settings: GuardSettings, *, paid: bool) -> bool:
    """Whether a task goes before others where they share a model: it pays, or has waited long enough."""
    return paid or (entry.parked_at > 0 and now_ms - entry.parked_at > settings.free_patience_s * 1000)


def delay_after_cooldown(retry: RetrySettings, jitter: float, *, first: bool) -> float:
    """Seconds after a model has opened again: those who go first within the first, the others after them."""
    spread_s = retry.defer_s / 5
    return spread_s * jitter if first else spread_s * (1 + 2 * jitter)


def cooldown_of(error: ModelUnavailable, settings: GuardSettings, retry: RetrySettings, jitter: float) -> float:
    """How long a refusal closes the model for everybody: at least what the provider named, a tenth of jitter on top."""
    default_s = settings.quota_closed_s if error.reason == "QUOTA" else retry.defer_s
    named_s = error.retry_after_s if error.retry_after_s is not None else default_s
    if error.reason == "QUOTA":
        named_s = max(named_s, settings.quota_closed_s)
    return named_s * (1 + jitter / 10)


def call_report(candidate: Candidate, error: Exception, cooldown_s: float) -> CallReport:
    """What a failed call tells of its model; an interruption, a refusal or a bad answer tells nothing against it."""
    if isinstance(error, ModelUnavailable):
        if error.reason == "UNKNOWN_MODEL":
            return CallReport(candidate, "none")
        slow_down = error.reason != "QUOTA"
        ms = max(1, int(cooldown_s * 1000))
        return CallReport(candidate, "closed", cooldown_ms=ms, cooldown_reason=error.reason, slow_down=slow_down)
    if isinstance(error, TaskError) and error.code in {Code.LLM_ERROR, Code.LLM_TIMEOUT}:
        return CallReport(candidate, "failed")
    if isinstance(error, TaskError) and error.code in {Code.LLM_REFUSED, Code.LLM_BAD_OUTPUT}:
        return CallReport(candidate, "ok")
    return CallReport(candidate, "none")


def _reason(permit: Permit | None) -> Reason:
    if permit is None:
        return Reason.BREAKER_OPEN
    return Reason.GUARD_USER if permit.key.startswith(keys.user_permits("")) else Reason.GUARD_MODEL


def _left_s(since_ms: int, now_ms: int, settings: GuardSettings) -> float:
    """Until the wait has lasted as long as it may: then it is looked at once more, and ended."""
    return settings.wait_max_s - (now_ms - since_ms) / 1000 + 0.1
