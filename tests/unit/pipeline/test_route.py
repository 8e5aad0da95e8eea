from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from daemon.config import GuardSettings
from daemon.domain.messages import ImageRef
from daemon.domain.queues import Tier
from daemon.pipeline.route import IMAGE_TOKENS, OUTPUT_TOKENS, Plan, candidate, expected_tokens, route
from daemon.pipeline.timeouts import Timeouts
from daemon.pipeline.validate import validate
from daemon.ports import Permit
from daemon.redis_client import keys
from daemon.services.limits_in_force import UNLIMITED
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
    assert plan().permits == (
        Permit(keys.user_permits("u1"), GUARDS.user_paid),
        Permit(keys.queue_permits("q_paid_stream"), UNLIMITED),
        Permit(keys.model_permits("pro", "paid"), 7),
    )


def test_a_model_s_concurrency_wins_over_the_settings() -> None:
    """`pro` sets 7 for paid; `flash` sets nothing."""
    assert plan("q_paid_batch", model_id="flash").permits[2].limit == GUARDS.model_paid
    assert [permit.limit for permit in plan("q_free_batch").permits] == [GUARDS.user_free, UNLIMITED, GUARDS.model_free]
    assert candidate(PRO, Tier.FREE, GUARDS, 0).permit.limit == GUARDS.model_free


def test_every_model_is_a_candidate_with_its_own_guard_and_rates() -> None:
    """The guards take the first that is open."""
    assert [c.permit.key for c in plan().candidates] == [keys.model_permits(m, "paid") for m in ("pro", "flash", "eye")]
    limited = replace(PRO, requests_per_minute=60, tokens_per_minute=9000)
    found = candidate(limited, Tier.PAID, GUARDS, 321)
    assert (found.requests_per_minute, found.tokens_per_minute, found.tokens) == (60, 9000, 321)


def test_a_queue_may_be_limited_over_all_processes() -> None:
    """Its guard is taken without a limit too, so that one that is set later counts what runs then."""
    task = validate(message(), "q_paid_stream", BOOK, 0.0)
    assert route(task, GUARDS, 4).permits[1] == Permit(keys.queue_permits("q_paid_stream"), 4)


def test_what_a_call_will_use_is_guessed_from_its_input_and_its_limit() -> None:
    """A third of the bytes, a thousand a picture, and the most it may answer."""
    source = len((REVIEW.system + (REVIEW.prompt or "")).encode())
    variables = {"resume": "简历" * 100}
    given = source + len("{'resume': ''}") + 600
    assert expected_tokens(message(variables=variables), REVIEW) == given // 3 + 512
    pictured = message(images=[ImageRef(file_key="a"), ImageRef(file_key="b")])
    assert expected_tokens(pictured, replace(REVIEW, max_output_tokens=None)) == (
        source // 3 + 2 * IMAGE_TOKENS + OUTPUT_TOKENS
    )


@pytest.mark.parametrize(("asked", "attempts"), [(None, 4), (1, 1), (4, 4), (10, 4)])
def test_max_attempts_lowers_and_never_raises(asked: int | None, attempts: int) -> None:
    assert plan(max_attempts=asked).attempts_max == attempts


def test_clocks_and_expiry_come_along() -> None:
    found = plan(expires_at=5.0)
    assert (found.timeouts, found.expires_at, found.service) == (Timeouts(10, 20, 30), 5.0, REVIEW)


def test_only_stream_queues_stream() -> None:
    assert plan().stream
    assert not plan("q_paid_batch").stream
    assert not plan("q_paid_vision").stream
