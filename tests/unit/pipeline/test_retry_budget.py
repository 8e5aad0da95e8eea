"""Retries never become most of what a struggling vendor gets."""

from __future__ import annotations

from daemon.pipeline.retry_budget import RETRIES_MIN, WINDOW_S, RetryBudget


def spend(budget: RetryBudget, model: str, now: float, tries: int) -> int:
    return sum(budget.may_retry(model, now) for _ in range(tries))


def test_a_quiet_model_may_always_retry_a_little() -> None:
    """A handful of retries needs no calls beside it."""
    assert spend(RetryBudget(), "m", 0, 100) == RETRIES_MIN


def test_a_busy_model_retries_a_tenth_of_its_calls() -> None:
    """With 1,000 calls in the window 100 retries go out, and not one more."""
    budget = RetryBudget()
    for number in range(1000):
        budget.record_call("m", number * 0.1)
    assert spend(budget, "m", 100.0, 500) == 100


def test_models_do_not_share_a_budget() -> None:
    """One vendor's storm takes nothing from another."""
    budget = RetryBudget()
    assert spend(budget, "a", 0, 100) == RETRIES_MIN
    assert spend(budget, "b", 0, 100) == RETRIES_MIN


def test_what_left_the_window_is_forgotten() -> None:
    """Calls and retries count for two minutes; a refused retry was none."""
    budget = RetryBudget()
    for _ in range(1000):
        budget.record_call("m", 0)
    assert spend(budget, "m", WINDOW_S, 200) == 100
    assert spend(budget, "m", WINDOW_S + 1, 200) == 0
    assert spend(budget, "m", 2 * WINDOW_S + 0.5, 200) == RETRIES_MIN
