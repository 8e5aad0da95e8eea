"""A refused place, by table."""

from __future__ import annotations

import msgspec
import pytest

from daemon import keys
from daemon.config import GuardSettings, RetrySettings
from daemon.contracts import Reason, WorkEntry
from daemon.pipeline.guard import WaitForPlace, denied
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
