"""A refused place, by table."""

from __future__ import annotations

import msgspec
import pytest

from daemon import keys
from daemon.config import GuardSettings, RetrySettings
from daemon.contracts import Reason, WorkEntry
from daemon.errors import Code, LeaseLost, ModelClosed, ProviderError, TaskError
from daemon.pipeline.guard import (
    WaitForPlace,
    at_reopening,
    closing_s,
    denied,
    goes_first,
    report_of,
    shut_out,
)
from daemon.places import Candidate, Shut
from daemon.ports import GuardPlace
from tests.unit.pipeline.messages import message

ENTRY = WorkEntry(message=message(), sha256="0", accepted_at=1)
GUARDS, RETRY = GuardSettings(wait_max_s=100), RetrySettings(guard_s=2)
USER, MODEL = GuardPlace(keys.guard_user("u1"), 3), GuardPlace(keys.guard_model("pro", "paid"), 50)
NOW_MS = 1_700_000_000_000


def waiting(since_ms: int) -> WorkEntry:
    return msgspec.structs.replace(ENTRY, parked_at=since_ms)


@pytest.mark.parametrize(("place", "reason"), [(USER, Reason.GUARD_USER), (MODEL, Reason.GUARD_MODEL)])
def test_the_reason_names_the_guard_that_was_full(place: GuardPlace, reason: Reason) -> None:
    """A viewer is told whether an own task or everybody's is in the way."""
    wait = denied(ENTRY, place, NOW_MS, GUARDS, RETRY, 0.5)
    assert wait == WaitForPlace(reason, 1.5, NOW_MS)


@pytest.mark.parametrize(("jitter", "delay_s"), [(0.0, 1.0), (0.5, 1.5), (0.999, 1.999)])
def test_it_asks_again_within_the_set_time_and_never_at_once(jitter: float, delay_s: float) -> None:
    """Half to whole `guard_s`: no busy loop, no herd."""
    wait = denied(ENTRY, USER, NOW_MS, GUARDS, RETRY, jitter)
    assert wait is not None
    assert wait.delay_s == pytest.approx(delay_s)


def test_the_wait_is_counted_from_its_beginning() -> None:
    """Every look keeps the time at which the first was refused."""
    wait = denied(waiting(NOW_MS - 99_000), USER, NOW_MS, GUARDS, RETRY, 0.5)
    assert wait is not None
    assert wait.since_ms == NOW_MS - 99_000


def test_who_waited_too_long_is_told_so() -> None:
    """After `wait_max_s` there is no next look; until then there is one."""
    assert denied(waiting(NOW_MS - 100_000), USER, NOW_MS, GUARDS, RETRY, 0.5) is not None
    assert denied(waiting(NOW_MS - 100_001), USER, NOW_MS, GUARDS, RETRY, 0.5) is None


def test_the_wait_for_a_probe_names_the_breaker() -> None:
    """No place was full: the model has trouble, and somebody finds out."""
    wait = denied(ENTRY, None, NOW_MS, GUARDS, RETRY, 0.5)
    assert wait is not None
    assert wait.reason is Reason.BREAKER_OPEN


def test_far_back_in_line_it_asks_unasked_more_rarely() -> None:
    """A crowd that asks by itself would be a poll; and nobody sleeps through the end of its wait."""
    delays = [denied(ENTRY, USER, NOW_MS, GUARDS, RETRY, 0.999, rank) for rank in (0, 100, 1000, 100_000)]
    assert [round(wait.delay_s, 1) for wait in delays if wait] == [2.0, 2.0, 20.0, 100.1]


@pytest.mark.parametrize(("first", "in_line", "delay_s"), [(True, False, 7.5), (False, False, 9.0), (False, True, 7.0)])
def test_at_a_reopening_the_paying_come_first(*, first: bool, in_line: bool, delay_s: float) -> None:
    """Within the first second, the others in the two after it; a turn of one's own needs no spreading."""
    shut = Shut(Reason.RATE_LIMITED, 7000, in_line)
    wait = shut_out(ENTRY, shut, NOW_MS, GUARDS, RETRY, 0.5, first=first)
    assert wait == WaitForPlace(Reason.RATE_LIMITED, delay_s, NOW_MS, wakeable=False)
    assert at_reopening(RETRY, 0.999, first=True) < at_reopening(RETRY, 0.0, first=False)


def test_a_closed_model_is_not_waited_for_without_end() -> None:
    """The same limit as for a place."""
    shut = Shut(Reason.BREAKER_OPEN, 1000, in_line=False)
    assert shut_out(waiting(NOW_MS - 100_001), shut, NOW_MS, GUARDS, RETRY, 0.5, first=True) is None


@pytest.mark.parametrize(
    ("paid", "waited_ms", "first"), [(True, 0, True), (False, 0, False), (False, 29_000, False), (False, 31_000, True)]
)
def test_a_free_task_that_has_waited_counts_as_paid(*, paid: bool, waited_ms: int, first: bool) -> None:
    """So it never starves."""
    entry = waiting(NOW_MS - waited_ms) if waited_ms else ENTRY
    assert goes_first(entry, NOW_MS, GuardSettings(), paid=paid) is first


@pytest.mark.parametrize(
    ("error", "jitter", "seconds"),
    [
        (ModelClosed("RATE_LIMITED", retry_after_s=7), 0.0, 7.0),
        (ModelClosed("RATE_LIMITED", retry_after_s=7), 1.0, 7.7),
        (ModelClosed("OVERLOADED"), 0.0, 5.0),
        (ModelClosed("QUOTA"), 0.0, 900.0),
        (ModelClosed("QUOTA", retry_after_s=3), 0.0, 900.0),
        (ModelClosed("QUOTA", retry_after_s=3600), 0.0, 3600.0),
    ],
)
def test_a_model_is_closed_for_at_least_the_time_that_was_named(
    error: ModelClosed, jitter: float, seconds: float
) -> None:
    """Never shorter; a quota that is used up is left alone for long."""
    assert closing_s(error, GuardSettings(), RetrySettings(), jitter) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ModelClosed("RATE_LIMITED"), "closed"), (ModelClosed("QUOTA"), "closed"),
        (ModelClosed("UNKNOWN_MODEL"), "none"),
        (ProviderError(), "failed"), (ProviderError(code=Code.LLM_TIMEOUT), "failed"),
        (ProviderError(code=Code.LLM_REFUSED), "ok"), (TaskError(code=Code.LLM_BAD_OUTPUT), "ok"),
        (TaskError(code=Code.CANCELLED), "none"), (LeaseLost(), "none"), (RuntimeError(), "none"),
    ],
)  # fmt: skip
def test_only_the_model_s_own_failures_count_against_it(error: Exception, outcome: str) -> None:
    """A cancel, a lost lease or a bug of ours says nothing of the model; a refusal says that it works."""
    told = report_of(Candidate("m", "paid", MODEL), error, 2.0)
    assert told.outcome == outcome
    assert told.closed_ms == (2000 if outcome == "closed" else 0)
    assert told.slow_down is (isinstance(error, ModelClosed) and error.reason == "RATE_LIMITED")
