"""Rates as the scripts are given them, run through GCRA: no window of a minute holds more than the limit."""

from __future__ import annotations

import pytest

from daemon.limiter.rates import MINUTE_MS, Rate, requests, tokens


def starts(rate: Rate, cost: float, until_ms: float) -> list[float]:
    """When calls of that cost begin if somebody always waits."""
    found, paid_off = [], 0.0
    now = 0.0
    while now < until_ms:
        full = max(paid_off, now) + rate.each_ms * cost
        wait = full - now - max(rate.burst_ms, rate.each_ms * cost)
        if wait <= 1e-9:
            paid_off = full
            found.append(now)
        else:
            now += wait
    return found


@pytest.mark.parametrize("limit", [1, 2, 7, 10, 60, 600, 999])
def test_no_minute_holds_more_requests_than_the_limit(limit: int) -> None:
    """Whichever minute one looks at, and nearly all of the limit is used."""
    begun = starts(requests(limit), 1, 5 * MINUTE_MS)
    for first in begun:
        assert sum(first <= at < first + MINUTE_MS - 1e-6 for at in begun) <= limit
    assert len(begun) >= 4.4 * limit


def test_no_minute_holds_more_tokens_than_the_limit() -> None:
    """As they are reserved."""
    begun = starts(tokens(60_000), 1500, 5 * MINUTE_MS)
    for first in begun:
        assert 1500 * sum(first <= at < first + MINUTE_MS - 1e-6 for at in begun) <= 60_000


@pytest.mark.parametrize("none", [None, 0])
def test_no_limit_costs_nothing(none: int | None) -> None:
    assert requests(none) == tokens(none) == Rate()
