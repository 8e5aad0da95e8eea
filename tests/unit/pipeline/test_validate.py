from __future__ import annotations

from typing import Any

import pytest

from daemon.domain.errors import Code, Rejected
from daemon.domain.messages import ImageRef
from daemon.domain.queues import Tier
from daemon.pipeline.validate import Validated, validate
from tests.unit.pipeline.messages import BOOK, EYE, FLASH, LOOK, PRO, REVIEW, message

IMAGE = ImageRef(file_id="f_1")


def judged(now: float = 1000.0, queue: str = "q_paid_stream", **fields: Any) -> Validated:
    return validate(message(**{"queue_id": queue, **fields}), queue, BOOK, now)


def test_a_good_message_comes_with_its_queue_service_and_models() -> None:
    found = judged(tier=Tier.PAID, model_id="flash", template_id="a@1")
    assert (found.queue.name, found.service, found.tier) == ("q_paid_stream", REVIEW, Tier.PAID)
    assert found.models == (PRO, FLASH, EYE)
    assert judged(queue="q_free_batch").models == (FLASH,)


@pytest.mark.parametrize(
    ("queue", "fields", "code", "said"),
    [
        ("q_gone", {}, Code.INVALID_PAYLOAD, 'queueId: "q_gone" is not allowed'),
        ("q_paid_strem", {}, Code.INVALID_PAYLOAD, 'did you mean "q_paid_stream"?'),
        ("q_paid_batch", {"queue_id": "q_free_batch"}, Code.INVALID_PAYLOAD, "allowed: q_paid_batch"),
        ("q_paid_batch", {"tier": Tier.FREE}, Code.INVALID_PAYLOAD, 'tier: "free" does not agree with q_paid_batch'),
        (
            "q_paid_batch",
            {"service_id": "reviw"},
            Code.UNKNOWN_SERVICE,
            'did you mean "review"?; allowed: review, look',
        ),
        ("q_free_vision", {"service_id": "look"}, Code.INVALID_PAYLOAD, 'tier: "free" is not allowed; allowed: paid'),
        (
            "q_paid_batch",
            {"model_id": "fl4sh"},
            Code.INVALID_PAYLOAD,
            'did you mean "flash"?; allowed: pro, flash, eye',
        ),
        ("q_free_batch", {"model_id": "pro"}, Code.INVALID_PAYLOAD, 'modelId: "pro" is not allowed; allowed: flash'),
        ("q_paid_batch", {"template_id": "a@b@c"}, Code.INVALID_PAYLOAD, "templateId: must be name or name@version"),
        ("q_paid_vision", {"images": [IMAGE]}, Code.IMAGE_REJECTED, 'the service "review" takes no images'),
        ("q_paid_batch", {"expires_at": 999.0}, Code.EXPIRED, "expired 1 s before it could start"),
    ],
)
def test_what_can_not_run_is_refused_with_its_reason(queue: str, fields: dict[str, Any], code: Code, said: str) -> None:
    with pytest.raises(Rejected) as caught:
        judged(queue=queue, **fields)
    assert caught.value.code is code
    assert said in caught.value.message


def test_a_message_may_start_until_the_very_instant_it_expires() -> None:
    assert judged(now=1000.0, expires_at=1000.0).message.expires_at == 1000.0
    with pytest.raises(Rejected):
        judged(now=1000.001, expires_at=1000.0)


def test_images_go_to_services_that_take_them_on_any_queue() -> None:
    """On vision queues images may be absent; elsewhere they may be present."""
    assert judged(queue="q_paid_vision", service_id="look", images=[IMAGE]).service is LOOK
    assert judged(queue="q_paid_stream", service_id="look", images=[IMAGE]).models == (EYE,)
    assert judged(queue="q_paid_vision", images=[]).service is REVIEW


def test_a_long_wrong_name_is_not_repeated_whole() -> None:
    with pytest.raises(Rejected) as caught:
        judged(model_id="x" * 128)
    assert len(caught.value.message) < 150
