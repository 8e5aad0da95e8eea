"""The one place that asks the time."""

from __future__ import annotations

import time

import pytest

from daemon.domain.clock import SystemClock


def test_wall_time_is_unix_seconds() -> None:
    """To store and to compare between hosts."""
    before = time.time()  # noqa: TID251  # the clock is held to it
    assert before <= SystemClock().time() <= before + 5


def test_monotonic_time_never_goes_back() -> None:
    """To subtract."""
    clock = SystemClock()
    read = [clock.monotonic() for _ in range(1000)]
    assert read == sorted(read)


def test_a_suspended_host_counts_where_the_system_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease goes on while the host sleeps, so our clock must; without CLOCK_BOOTTIME the usual one serves."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        assert SystemClock().monotonic() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=5)
        monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert SystemClock().monotonic() == pytest.approx(time.monotonic(), abs=5)
