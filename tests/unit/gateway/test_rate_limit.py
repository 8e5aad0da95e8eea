"""Buckets: a burst, then a pace; names apart; memory bounded."""

from __future__ import annotations

from daemon.gateway.rate_limit import NAMES_MAX, RateLimiter


class Clock:
    """Goes when it is told to."""

    now = 100.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def test_a_burst_then_a_pace() -> None:
    """60 a minute, 3 at once: the fourth waits a second, and is not counted."""
    clock = Clock()
    rate = RateLimiter(clock, per_minute=60, burst=3)
    assert [rate.wait_s("a") for _ in range(4)] == [0, 0, 0, 1]
    assert rate.wait_s("a") == 1
    clock.now += 0.5
    assert rate.wait_s("a") == 0.5
    clock.now += 0.5
    assert rate.wait_s("a") == 0
    clock.now += 3600
    assert [rate.wait_s("a") for _ in range(4)] == [0, 0, 0, 1]


def test_names_do_not_meet() -> None:
    rate = RateLimiter(Clock(), per_minute=1, burst=1)
    assert (rate.wait_s("a"), rate.wait_s("b"), rate.wait_s("a")) == (0, 0, 60)


def test_a_burst_of_less_than_one_is_one() -> None:
    assert RateLimiter(Clock(), per_minute=1, burst=0.1).wait_s("a") == 0


def test_a_flood_of_names_costs_bounded_memory() -> None:
    rate = RateLimiter(Clock(), per_minute=1, burst=1)
    for n in range(NAMES_MAX + 100):
        rate.wait_s(str(n))
    assert len(rate._buckets) == NAMES_MAX
    assert rate.wait_s(str(NAMES_MAX + 99)) > 0  # the newest are kept
