"""A refused place, by table."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from daemon.config import GuardSettings, RetrySettings
from daemon.domain.errors import Code, LeaseLost, ModelUnavailable, ProviderError
from daemon.domain.events import Reason
from daemon.domain.messages import WorkEntry
from daemon.domain.permits import Candidate, NoModelAvailable, Permit
from daemon.pipeline.permit_policy import (
    Snooze,
    call_report,
    cooldown_of,
    has_priority,
    snooze_for_permit,
    snooze_until_available,
)
from daemon.redis_client import keys
from tests.unit.pipeline.messages import message

ENTRY = WorkEntry(message=message(), sha256="0", accepted_at=1)
GUARDS, RETRY = GuardSettings(wait_max_s=100), RetrySettings(guard_s=2)
USER, MODEL = Permit(keys.user_permits("u1"), 3), Permit(keys.model_permits("pro", "paid"), 50)
NOW_MS = 1_700_000_000_000
SHUT = NoModelAvailable(Reason.RATE_LIMITED, 30_000, in_line=False)
CANDIDATE = Candidate("pro", "paid", MODEL)


def waiting(since_ms: int) -> WorkEntry:
    return msgspec.structs.replace(ENTRY, parked_at=since_ms)


@pytest.mark.parametrize(("permit", "reason"), [(USER, Reason.GUARD_USER), (MODEL, Reason.GUARD_MODEL)])
def test_the_reason_names_the_guard_that_was_full(permit: Permit, reason: Reason) -> None:
    """A viewer is told whether an own task or everybody's is in the way."""
    wait = snooze_for_permit(ENTRY, permit, NOW_MS, GUARDS, RETRY, 0.5)
    assert wait == Snooze(reason, 1.5, NOW_MS)


@pytest.mark.parametrize(("jitter", "delay_s"), [(0.0, 1.0), (0.5, 1.5), (0.999, 1.999)])
def test_it_asks_again_within_the_set_time_and_never_at_once(jitter: float, delay_s: float) -> None:
    """Half to whole `guard_s`: no busy loop, no herd."""
    wait = snooze_for_permit(ENTRY, USER, NOW_MS, GUARDS, RETRY, jitter)
    assert wait is not None
    assert wait.delay_s == pytest.approx(delay_s)


def test_the_wait_is_counted_from_its_beginning() -> None:
    """Every look keeps the time at which the first was refused."""
    wait = snooze_for_permit(waiting(NOW_MS - 99_000), USER, NOW_MS, GUARDS, RETRY, 0.5)
    assert wait is not None
    assert wait.since_ms == NOW_MS - 99_000


def test_who_waited_too_long_is_told_so() -> None:
    """After `wait_max_s` there is no next look; until then there is one."""
    assert snooze_for_permit(waiting(NOW_MS - 100_000), USER, NOW_MS, GUARDS, RETRY, 0.5) is not None
    assert snooze_for_permit(waiting(NOW_MS - 100_001), USER, NOW_MS, GUARDS, RETRY, 0.5) is None


@pytest.mark.parametrize(("rank", "delay_s"), [(0, 1.5), (100, 1.5), (1000, 15.0)])
def test_a_crowd_does_not_poll(rank: int, delay_s: float) -> None:
    """Each will be called; to ask unasked is for the case that the line was lost, and rarer at its end."""
    wait = snooze_for_permit(ENTRY, MODEL, NOW_MS, GUARDS, RETRY, 0.5, rank)
    assert wait is not None
    assert wait.wakeable
    assert wait.delay_s == pytest.approx(delay_s)


def test_no_wait_outlasts_the_longest() -> None:
    """It is looked at once more when that is over, and ended."""
    wait = snooze_for_permit(waiting(NOW_MS - 99_500), MODEL, NOW_MS, GUARDS, RETRY, 0.5, 100_000)
    assert wait is not None
    assert 0.5 < wait.delay_s < 0.7
    shut = snooze_until_available(waiting(NOW_MS - 99_500), SHUT, NOW_MS, GUARDS, RETRY, 0.5, first=True)
    assert shut is not None
    assert 0.5 < shut.delay_s < 0.7


def test_a_breakers_probe_is_a_reason_of_its_own() -> None:
    """The viewer learns that the model has trouble, not that it is full."""
    wait = snooze_for_permit(ENTRY, None, NOW_MS, GUARDS, RETRY, 0.5)
    assert wait is not None
    assert wait.reason is Reason.BREAKER_OPEN


def test_who_is_shut_out_comes_when_it_opens() -> None:
    """Not before, those who go first before the others, and a line keeps its own times."""
    delays = {
        first: [
            snooze_until_available(ENTRY, SHUT, NOW_MS, GUARDS, RETRY, jitter, first=first) for jitter in (0.0, 0.999)
        ]
        for first in (True, False)
    }
    (a, b), (c, d) = delays[True], delays[False]
    assert a is not None
    assert b is not None
    assert c is not None
    assert d is not None
    assert 30 <= a.delay_s < b.delay_s <= c.delay_s < d.delay_s < 40
    assert not a.wakeable
    line = snooze_until_available(ENTRY, replace(SHUT, in_line=True), NOW_MS, GUARDS, RETRY, 0.9, first=False)
    assert line is not None
    assert line.delay_s == 30
    assert snooze_until_available(waiting(NOW_MS - 100_001), SHUT, NOW_MS, GUARDS, RETRY, 0.5, first=True) is None


@pytest.mark.parametrize(
    ("paid", "waited_s", "first"), [(True, 0, True), (False, 0, False), (False, 10, False), (False, 10**6, True)]
)
def test_payers_go_first_and_so_does_whoever_waited_long(*, paid: bool, waited_s: int, first: bool) -> None:
    """Free tasks are never starved."""
    entry = waiting(NOW_MS - waited_s * 1000) if waited_s else ENTRY
    assert has_priority(entry, NOW_MS, GuardSettings(), paid=paid) is first


@pytest.mark.parametrize(
    ("error", "least_s", "most_s"),
    [
        (ModelUnavailable("RATE_LIMITED", retry_after_s=20), 20, 22),
        (ModelUnavailable("OVERLOADED"), RETRY.defer_s, RETRY.defer_s * 1.1),
        (ModelUnavailable("QUOTA"), GUARDS.quota_closed_s, GUARDS.quota_closed_s * 1.1),
        (ModelUnavailable("QUOTA", retry_after_s=1), GUARDS.quota_closed_s, GUARDS.quota_closed_s * 1.1),
        (ModelUnavailable("QUOTA", retry_after_s=10**6), 10**6, 1.1 * 10**6),
    ],
)
def test_a_model_stays_closed_for_at_least_what_its_vendor_named(
    error: ModelUnavailable, least_s: float, most_s: float
) -> None:
    """A tenth of jitter on top, so that nobody knocks in step; a quota is not back in a second."""
    assert cooldown_of(error, GUARDS, RETRY, 0.0) == least_s
    assert least_s <= cooldown_of(error, GUARDS, RETRY, 0.999) <= most_s


@pytest.mark.parametrize(
    ("error", "outcome", "slow_down"),
    [
        (ModelUnavailable("RATE_LIMITED"), "closed", True),
        (ModelUnavailable("OVERLOADED"), "closed", True),
        (ModelUnavailable("QUOTA"), "closed", False),
        (ModelUnavailable("UNKNOWN_MODEL"), "none", None),
        (ProviderError(), "failed", None),
        (ProviderError(code=Code.LLM_TIMEOUT), "failed", None),
        (ProviderError(code=Code.LLM_REFUSED), "ok", None),
        (ProviderError(code=Code.LLM_BAD_OUTPUT), "ok", None),
        (LeaseLost("gone"), "none", None),
        (ZeroDivisionError(), "none", None),
    ],
)
def test_only_the_models_own_failures_count_against_it(
    error: Exception, outcome: str, *, slow_down: bool | None
) -> None:
    """An interruption, a refusal of the content or a bug of ours says nothing about the vendor's health."""
    report = call_report(CANDIDATE, error, 0.0001)
    assert report.outcome == outcome
    if slow_down is not None:
        assert (report.cooldown_reason, report.slow_down) == (getattr(error, "reason", ""), slow_down)
        assert report.cooldown_ms >= 1
