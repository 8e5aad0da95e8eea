"""What a failed attempt leads to, by table."""

from __future__ import annotations

import doctest

import pytest

from daemon.config import RetrySettings
from daemon.domain.errors import CODES, Code, Disposition, ModelUnavailable, ProviderError, Rejected, TaskError
from daemon.pipeline import retry_policy as module
from daemon.pipeline.retry_policy import GiveUp, Retry, RetryDecision, WaitForModel, backoff, decide, final_code

RETRY = RetrySettings()


def verdict(
    error: TaskError,
    *,
    failures: int = 0,
    attempts_max: int = 3,
    expires_in_s: float | None = None,
    jitter: float = 0.5,
) -> RetryDecision:
    return decide(
        error, failures=failures, attempts_max=attempts_max, expires_in_s=expires_in_s, retry=RETRY, jitter=jitter
    )


def test_the_documented_sequence_holds() -> None:
    """The backoff in the module's docstring is the backoff."""
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("code", [c for c, info in CODES.items() if info.disposition is Disposition.REJECT])
def test_what_can_never_succeed_is_never_tried_again(code: Code) -> None:
    """A refusal, a bad message or an expiry ends the task at its first attempt."""
    assert isinstance(verdict(TaskError(code=code)), GiveUp)


@pytest.mark.parametrize("code", [c for c, i in CODES.items() if i.disposition in (Disposition.RETRY, Disposition.BUG)])
def test_what_may_pass_is_tried_again_until_its_attempts_are_spent(code: Code) -> None:
    """`attempts` are failures allowed: with 3, the third one ends it."""
    assert [type(verdict(TaskError(code=code), failures=n)) for n in (0, 1, 2, 3)] == [
        Retry, Retry, GiveUp, GiveUp,
    ]  # fmt: skip
    assert isinstance(verdict(TaskError(code=code), attempts_max=1), GiveUp)


@pytest.mark.parametrize(
    ("failures", "jitter", "expected"),
    [(0, 0.0, 0.0), (0, 0.5, 1.0), (1, 0.5, 2.0), (4, 0.5, 16.0), (5, 0.5, 30.0), (50, 0.999, 59.94)],
)
def test_backoff_is_full_jitter_under_a_cap(failures: int, jitter: float, expected: float) -> None:
    """Anything between zero and min(cap, base · 2ⁿ), so that a storm of failures spreads out."""
    assert backoff(RETRY, failures=failures, jitter=jitter) == pytest.approx(expected)
    again = verdict(ProviderError(), failures=failures, attempts_max=100, jitter=jitter)
    assert again == Retry(pytest.approx(expected))  # type: ignore[arg-type]


def test_a_named_time_is_the_least_that_is_waited() -> None:
    """Retry-After is a minimum, never a maximum."""
    assert verdict(ProviderError(retry_after_s=7), jitter=0.5) == Retry(7)
    assert verdict(ProviderError(retry_after_s=7), failures=5, attempts_max=9, jitter=0.5) == Retry(30)


@pytest.mark.parametrize("reason", ["RATE_LIMITED", "OVERLOADED", "QUOTA"])
@pytest.mark.parametrize("failures", [0, 2, 9])
def test_a_closed_model_counts_no_failure(reason: str, failures: int) -> None:
    """A 429 is waited out however often it comes; jitter is on top of what the vendor named."""
    for jitter in (0.0, 0.999):
        answer = verdict(ModelUnavailable(reason, retry_after_s=30), failures=failures, jitter=jitter)
        assert isinstance(answer, WaitForModel)
        assert 30 < answer.delay_s <= 30 + RETRY.defer_s
    unnamed = verdict(ModelUnavailable(reason), jitter=0.5)
    assert isinstance(unnamed, WaitForModel)
    assert 0 < unnamed.delay_s <= RETRY.defer_s


def test_an_unknown_model_is_a_failure_like_any_other() -> None:
    """A 404 will not go away by waiting for a place."""
    assert isinstance(verdict(ModelUnavailable("UNKNOWN_MODEL")), Retry)
    assert isinstance(verdict(ModelUnavailable("UNKNOWN_MODEL"), failures=2), GiveUp)


@pytest.mark.parametrize(
    ("error", "expires_in_s", "code"),
    [
        (ProviderError(retry_after_s=10), 9.0, Code.EXPIRED),
        (ProviderError(retry_after_s=10), 10.0, Code.EXPIRED),
        (ModelUnavailable("RATE_LIMITED", retry_after_s=30), 20.0, Code.EXPIRED),
        (Rejected(), 20.0, Code.INVALID_PAYLOAD),
    ],
)
def test_a_retry_after_the_expiry_is_given_up_now(error: TaskError, expires_in_s: float, code: Code) -> None:
    """The viewer learns it at once, with the reason that is true: the clock, or the error itself."""
    assert isinstance(verdict(error, expires_in_s=expires_in_s), GiveUp)
    assert final_code(error, expires_in_s=expires_in_s, failures=0, attempts_max=3) is code


def test_a_retry_within_the_expiry_runs() -> None:
    """An expiry far away changes nothing."""
    assert verdict(ProviderError(retry_after_s=10), expires_in_s=10.1) == Retry(10)


def test_spent_attempts_end_with_the_errors_own_code() -> None:
    """EXPIRED is said only where nothing but the clock forbade another attempt."""
    assert final_code(ProviderError(), expires_in_s=1.0, failures=2, attempts_max=3) is Code.LLM_ERROR
    assert final_code(ProviderError(), expires_in_s=None, failures=0, attempts_max=3) is Code.LLM_ERROR


@pytest.mark.parametrize("jitter", [0.0, 0.999])
def test_a_closed_model_is_waited_for_until_it_opens_for_all(jitter: float) -> None:
    """The time that every process was told, with those who go first first; the vendor's own number is in it."""
    closed = ModelUnavailable("RATE_LIMITED", retry_after_s=3)

    def delay(*, first: bool) -> float:
        answer = decide(
            closed, failures=0, attempts_max=3, expires_in_s=None, retry=RETRY, jitter=jitter, available_in_s=20,
            first=first,
        )  # fmt: skip
        assert isinstance(answer, WaitForModel)
        return answer.delay_s

    assert 20 <= delay(first=True) < 20 + RETRY.defer_s
    assert delay(first=True) < delay(first=False)


def test_a_refusal_in_the_middle_of_an_answer_is_a_failure() -> None:
    """It cost what it cost: it counts, and ends a task like any other."""
    error = ModelUnavailable("OVERLOADED")
    error.midway = True
    assert isinstance(verdict(error), Retry)
    assert isinstance(verdict(error, failures=2), GiveUp)
