"""What becomes of verdicts and of errors; the rest is shown over real HTTP in `tests/e2e/test_relay.py`."""

from __future__ import annotations

from typing import Any, cast

import pytest
from aiohttp.test_utils import make_mocked_request

from daemon.config import QstashSettings, RelaySettings
from daemon.domain.clock import SystemClock
from daemon.domain.errors import CODES, Code, QstreamdError, RedisAway, RedisFull, Rejected, TaskError
from daemon.domain.messages import TaskMessage
from daemon.domain.queues import DEFAULT_QUEUES
from daemon.observability.metrics import Metrics
from daemon.queues.admission import Accepted, Conflict, Duplicate, Full, Verdict
from daemon.relay.ingest import Ingested
from daemon.relay.responses import FULL_RETRY_AFTER_S, Unauthorized, refusal, response_of, retry_after
from daemon.relay.server import INFLIGHT_MAX, Relay

MESSAGE = TaskMessage(task_id="t1", queue_id="q_paid_stream", service_id="s", user_id="u")
FOUND = Ingested(MESSAGE, DEFAULT_QUEUES["q_paid_stream"], "0" * 64, {})


def relay(**more: Any) -> Relay:
    nothing = cast("Any", None)
    return Relay(
        settings=RelaySettings(),
        qstash=QstashSettings(),
        signing_keys=(b"key",),
        queues=DEFAULT_QUEUES,
        admission=nothing,
        reservations=nothing,
        events=nothing,
        ping=nothing,
        metrics=Metrics(process=False),
        clock=SystemClock(),
        **more,
    )


@pytest.mark.parametrize(
    ("verdict", "status", "outcome", "told"),
    [
        (Accepted("1-0", 3), 200, "queued", {"taskId": "t1", "status": "queued", "entryId": "1-0"}),
        (Duplicate("1-0"), 200, "duplicate", {"taskId": "t1", "status": "duplicate", "entryId": "1-0"}),
        (Full(200, 200), 429, "full", {"code": "QUEUE_FULL", "message": CODES[Code.QUEUE_FULL].en}),
        (
            Conflict("1-0"),
            489,
            "conflict",
            {"code": "INVALID_PAYLOAD", "message": "taskId: t1 was accepted with another body"},
        ),
    ],
)
def test_each_verdict_has_its_answer(verdict: Verdict, status: int, outcome: str, told: dict[str, str]) -> None:
    answer = response_of(FOUND, verdict)
    assert (answer.status, answer.outcome, answer.body, answer.queue) == (status, outcome, told, "q_paid_stream")


@pytest.mark.parametrize(
    ("problem", "status", "code", "outcome"),
    [
        (Unauthorized("expired"), 401, "BAD_SIGNATURE", "unauthorized"),
        (Rejected("userId: no"), 489, "INVALID_PAYLOAD", "rejected"),
        (Rejected("images[0]: no", code=Code.IMAGE_REJECTED), 489, "IMAGE_REJECTED", "rejected"),
        (TaskError("v: 2", code=Code.WORKER_OVERLOADED), 503, "WORKER_OVERLOADED", "unavailable"),
        (RedisAway("gone: 10.0.0.7"), 503, "WORKER_OVERLOADED", "unavailable"),
        (RedisFull("full"), 503, "WORKER_OVERLOADED", "unavailable"),
        (TimeoutError(), 503, "WORKER_OVERLOADED", "unavailable"),
        (QstreamdError("10.0.0.7"), 500, "INTERNAL", "unavailable"),
        (ValueError("10.0.0.7"), 500, "INTERNAL", "unavailable"),
    ],
)
def test_each_error_has_its_answer(problem: Exception, status: int, code: str, outcome: str) -> None:
    """Ours say what was wrong; what a server said stays with us."""
    answer = refusal(problem)
    assert (answer.status, answer.body["code"], answer.outcome, answer.cause) == (status, code, outcome, problem)
    assert "10.0.0.7" not in str(answer.body)


@pytest.mark.parametrize(
    ("retried", "factor"), [("", 1), ("0", 1), ("1", 4), ("2", 16), ("4", 256), ("5", 1), ("-1", 1)]
)
@pytest.mark.parametrize(("status", "base"), [(503, RelaySettings().retry_after_s), (429, FULL_RETRY_AFTER_S)])
def test_each_try_waits_longer(status: int, base: int, retried: str, factor: int) -> None:
    """QStash gives up after a few tries: together they must outlast an outage. Jittered, so that they don't meet."""
    waits = {retry_after(status, retried, None, RelaySettings().retry_after_s) for _ in range(50)}
    assert base * factor <= min(waits) < max(waits) <= (base * 1.5 + 1) * factor


@pytest.mark.parametrize(
    ("more", "said"), [({"inflight": INFLIGHT_MAX + 1}, "too many calls at once"), ({"closed": "stopping"}, "stopping")]
)
async def test_a_relay_that_can_take_no_more_says_so_before_it_reads(more: dict[str, Any], said: str) -> None:
    """Each call in flight may hold a body: that is what bounds its memory."""
    with pytest.raises(TaskError, match=said) as refused:
        await relay(**more)._verified_body(make_mocked_request("POST", "/worker/execute"), 10)
    assert refused.value.code is Code.WORKER_OVERLOADED
