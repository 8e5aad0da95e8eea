"""Distances and clocks."""

from __future__ import annotations

import pytest

from daemon.admin.checkup.finding import distance, round_trips, skew
from daemon.domain.clock import SystemClock


@pytest.mark.parametrize(("theirs", "level"), [(100.5, "ok"), (102.4, "ok"), (103.1, "warning"), (60.0, "error")])
def test_a_clock_is_judged_with_half_a_round_trip_forgiven(theirs: float, level: str) -> None:
    assert skew("x.clock", theirs, 100.0, 101.0, "X").level == level


def test_a_far_server_is_a_warning_with_numbers() -> None:
    assert distance("x", 3.0, 20, "X").level == "ok"
    far = distance("x", 80.0, 20, "X")
    assert (far.level, far.text) == ("warning", "round trip 80.0 ms (median of 20)")


async def test_the_first_round_is_not_counted() -> None:
    """It pays for the connection."""
    asked: list[int] = []

    async def ask() -> None:
        asked.append(1)

    assert await round_trips(SystemClock(), ask, 5) >= 0
    assert len(asked) == 6
