"""What the accept script says, typed; what it does is shown in `tests/integration/queues/test_admission.py`."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.queues.admission import Accepted, Conflict, Duplicate, Full, Verdict, _verdict, blob_reference


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ([b"queued", b"1-0", 3], Accepted("1-0", 3)),
        ([b"duplicate", b"1-0"], Duplicate("1-0")),
        ([b"conflict", b"1-0"], Conflict("1-0")),
        ([b"full", 200, 200, -1], Full(200, 200)),
        ([b"full", 200, 200, 1500], Full(200, 200, 1.5)),
        ([b"queued", b"1-0", 3, 1], Accepted("1-0", 3, paused=True)),
    ],
)
def test_each_reply_is_a_verdict(reply: Any, verdict: Verdict) -> None:
    assert _verdict(reply) == verdict


def test_a_reply_that_nobody_wrote_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="the accept script answered"):
        _verdict([b"perhaps"])


def test_a_reference_names_the_key_of_its_bytes() -> None:
    """What the reader of `redis:` references relies on."""
    assert blob_reference("q_paid_vision", "t1", 2) == "redis:{bp:queue:q_paid_vision}:blob:t1:2"
