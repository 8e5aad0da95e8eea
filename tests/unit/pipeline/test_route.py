from __future__ import annotations

from typing import Any

import pytest

from daemon import keys
from daemon.config import GuardSettings
from daemon.pipeline.clocks import Limits
from daemon.pipeline.route import Plan, places_of, route
from daemon.pipeline.validate import validate
from daemon.ports import GuardPlace
from tests.unit.pipeline.messages import BOOK, EYE, FLASH, PRO, REVIEW, message

GUARDS = GuardSettings()


def plan(queue: str = "q_paid_stream", **fields: Any) -> Plan:
    return route(validate(message(queue_id=queue, **fields), queue, BOOK, 0.0), GUARDS)


def test_the_tier_names_the_models_and_the_first_is_called() -> None:
    assert plan().models == (PRO, FLASH, EYE)
    assert plan().model is PRO
    assert plan("q_free_batch").models == (FLASH,)


def test_a_model_that_was_asked_for_goes_first_and_the_rest_stay_fallbacks() -> None:
    assert plan(model_id="eye").models == (EYE, PRO, FLASH)
    assert plan(model_id="pro").models == (PRO, FLASH, EYE)


def test_the_user_waits_at_the_own_guard_before_the_model_s() -> None:
    """Whoever is over the own limit never stands at the head of everybody's queue for the model."""
    assert plan().places == (
        GuardPlace(keys.guard_user("u1"), GUARDS.user_paid),
        GuardPlace(keys.guard_model("pro", "paid"), 7),
    )


def test_a_model_s_concurrency_wins_over_the_settings() -> None:
    """`pro` sets 7 for paid; `flash` sets nothing."""
    assert plan("q_paid_batch", model_id="flash").places[1].limit == GUARDS.model_paid
    assert [place.limit for place in plan("q_free_batch").places] == [GUARDS.user_free, GUARDS.model_free]
    assert places_of("u", PRO, BOOK.queues["q_free_batch"].tier, GUARDS)[1].limit == GUARDS.model_free


@pytest.mark.parametrize(("asked", "attempts"), [(None, 4), (1, 1), (4, 4), (10, 4)])
def test_max_attempts_lowers_and_never_raises(asked: int | None, attempts: int) -> None:
    assert plan(max_attempts=asked).attempts_max == attempts


def test_clocks_and_expiry_come_along() -> None:
    found = plan(expires_at=5.0)
    assert (found.limits, found.expires_at, found.service) == (Limits(10, 20, 30), 5.0, REVIEW)


def test_only_stream_queues_stream() -> None:
    assert plan().stream
    assert not plan("q_paid_batch").stream
    assert not plan("q_paid_vision").stream
