"""The mix of a load."""

from __future__ import annotations

import pytest

from daemon import services
from daemon.admin.load_generator import default_mix, filled, parse_mix

BOOK = services.load(None, deep=False)


def test_the_default_sends_one_text_service_to_each_text_queue() -> None:
    """Images would need images."""
    mix = default_mix(BOOK)
    assert [share.queue.name for share in mix] == ["q_paid_stream", "q_free_stream", "q_paid_batch", "q_free_batch"]
    assert all(not share.service.takes_images for share in mix)


def test_each_required_variable_gets_a_text() -> None:
    """So that the prompt can be rendered."""
    assert set(filled(BOOK.services["resume-review"])) == {"resume"}


def test_a_mix_is_read_with_its_weights() -> None:
    """1 where none is given."""
    mix = list(parse_mix("q_paid_stream:resume-review=3, q_free_batch:job-match", BOOK, {"job": "x"}))
    assert [(share.queue.name, share.service.id, share.weight) for share in mix] == [
        ("q_paid_stream", "resume-review", 3.0), ("q_free_batch", "job-match", 1.0),
    ]  # fmt: skip
    assert mix[0].variables == {"job": "x"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("q_nope:resume-review", "wanted QUEUE:SERVICE"),
        ("q_paid_batch", "wanted QUEUE:SERVICE"),
        ("q_paid_vision:job-ad-reader", "takes images"),
        ("q_paid_batch:job-match=x", "could not convert"),
    ],
)
def test_a_wrong_mix_is_refused_with_its_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        list(parse_mix(text, BOOK, None))
