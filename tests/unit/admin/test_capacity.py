"""Arithmetic of capacity, held to the measured table and to what can be known without computing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from daemon.admin.capacity import (
    Load,
    Quick,
    backlog_s,
    capped_mean,
    ceiling,
    erlang,
    fit,
    simulate,
    slots_for,
    with_timeout,
)

USUAL = Load(per_minute=10, mean_s=60, p95_s=180, sla_s=300)


def test_a_lognormal_fits_mean_and_p95() -> None:
    """5 % take longer than the P95, and the mean is the mean."""
    shape = fit(60, 180)
    assert shape.tail(180) == pytest.approx(0.05)
    assert math.exp(shape.mu + shape.sigma**2 / 2) == pytest.approx(60)
    assert shape.cv2 == pytest.approx(1.38, abs=0.01)
    assert shape.tail(0) == 1.0


@pytest.mark.parametrize("p95", [60, 50, 60 * 3.9])
def test_a_p95_that_no_lognormal_has_is_refused(p95: float) -> None:
    """Below the mean, or beyond 3.87 of it."""
    with pytest.raises(ValueError, match=r"3\.87 means"):
        fit(60, p95)


def test_no_number_of_slots_beats_the_ceiling() -> None:
    """1.42 % of the tasks take longer than five minutes by themselves."""
    assert ceiling(USUAL) == pytest.approx(0.9858, abs=0.0001)
    assert simulate(USUAL, 500).in_sla == pytest.approx(ceiling(USUAL), abs=0.003)
    assert slots_for(USUAL, 0.99) is None


def test_a_time_limit_lifts_the_ceiling() -> None:
    """Attempts that end after 180 s always end within 300 s, and take less on average."""
    capped = with_timeout(USUAL, 180)
    assert ceiling(capped) == 1.0
    assert capped_mean(capped.shape, 180) == pytest.approx(54.7, abs=0.1)
    assert simulate(capped, 11).in_sla > 0.998
    assert ceiling(with_timeout(USUAL, 400)) == ceiling(USUAL), "a limit beyond the promise changes nothing"


@pytest.mark.parametrize(
    ("per_minute", "slots", "in_sla", "p95_s"),
    [
        (5, 6, 0.955, 289), (5, 7, 0.983, 202), (5, 8, 0.985, 186),
        (10, 11, 0.950, 299), (10, 12, 0.983, 204), (10, 13, 0.984, 189), (10, 15, 0.985, 182),
        (30, 32, 0.981, 218), (30, 34, 0.985, 187), (60, 64, 0.984, 189),
    ],
)  # fmt: skip
def test_steady_arrivals_come_out_as_measured(per_minute: float, slots: int, in_sla: float, p95_s: float) -> None:
    """The table of the study, made with six times as many tasks."""
    found = simulate(replace(USUAL, per_minute=per_minute), slots)
    assert found.in_sla == pytest.approx(in_sla, abs=0.01)
    assert found.p95_s == pytest.approx(p95_s, rel=0.08)


@pytest.mark.parametrize(("slots", "in_sla"), [(13, 0.76), (17, 0.963), (20, 0.980), (25, 0.985)])
def test_bursts_come_out_as_measured(slots: int, in_sla: float) -> None:
    """Three times the rate for five minutes of every hour."""
    assert simulate(replace(USUAL, burst=3, burst_s=300), slots).in_sla == pytest.approx(in_sla, abs=0.035)


def test_the_quick_answer_agrees_with_the_simulation() -> None:
    """Erlang C: P(wait) at 10 offered and 13 slots is known; its waits err on the careful side."""
    quick = erlang(USUAL, 13)
    assert quick.wait_share == pytest.approx(0.285, abs=0.005)
    assert quick.wait_tail(USUAL, 0) == quick.wait_share
    assert quick.wait_tail(USUAL, 60) < 0.03
    assert erlang(USUAL, 10) == Quick(10, 1.0, math.inf), "as many slots as load: it only grows"


def test_the_fewest_slots_that_keep_the_promise_are_found() -> None:
    """One less would break it."""
    found = slots_for(USUAL, 0.98)
    assert found is not None
    assert found.slots == 12
    assert simulate(USUAL, 11).in_sla < 0.98


def test_the_search_goes_on_beyond_its_first_guess() -> None:
    """A promise close to the mean needs more than twice the load."""
    tight = Load(per_minute=1, mean_s=60, p95_s=180, sla_s=181, burst=30, burst_s=60)
    found = slots_for(tight, ceiling(tight) - 0.005)
    assert found is not None
    assert found.in_sla >= ceiling(tight) - 0.005


def test_a_backlog_goes_at_the_rate_that_is_left() -> None:
    """20 slots end 20 a minute, 10 come in: 100 are gone after ten minutes; without spare slots never."""
    assert backlog_s(USUAL, 20, 100) == pytest.approx(600)
    assert backlog_s(USUAL, 10, 100) == math.inf


def test_the_same_question_has_the_same_answer() -> None:
    """Seeds are fixed."""
    assert simulate(USUAL, 12, tasks=500) == simulate(USUAL, 12, tasks=500)
