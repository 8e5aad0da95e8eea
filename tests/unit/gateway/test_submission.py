"""What a server may send, where it goes and how it is published."""

from __future__ import annotations

import json
from typing import Any

import pytest

from daemon import services
from daemon.domain.errors import Code, Rejected
from daemon.domain.messages import canonical_sha256
from daemon.domain.queues import DEFAULT_QUEUES
from daemon.gateway.qstash import FlowControl, Publishing
from daemon.gateway.submission import CheckedSubmission, Submission, check_submission, read
from daemon.observability.traceparent import parse
from daemon.relay.ingest import Route, ingest

NOW = 1_800_000_000.0
BOOK = services.load(None, deep=False)
BASE: dict[str, Any] = {"taskId": "t1", "serviceId": "resume-review", "userId": "u1", "tier": "paid", "variables": {}}


def submission(**fields: Any) -> Submission:
    body = {k: v for k, v in {**BASE, **fields}.items() if v is not None}
    return read(json.dumps(body).encode(), NOW)


def judged(found: Submission, queue: str | None = None) -> CheckedSubmission:
    return check_submission(found, queue or found.queues[0], DEFAULT_QUEUES, BOOK, NOW)


@pytest.mark.parametrize(
    ("fields", "queues"),
    [
        ({}, ("q_paid_stream",)),
        ({"tier": "free"}, ("q_free_stream",)),
        ({"mode": "batch"}, ("q_paid_batch",)),
        ({"mode": "vision"}, ("q_paid_vision",)),
        ({"images": [{"fileId": "f_1"}]}, ("q_paid_vision",)),
        ({"mode": "stream", "images": [{"fileId": "f_1"}]}, ("q_paid_stream",)),
        ({"tier": "auto"}, ("q_paid_stream", "q_free_stream")),
        ({"tier": "auto", "mode": "batch"}, ("q_paid_batch", "q_free_batch")),
        ({"tier": None, "queueId": "q_free_batch"}, ("q_free_batch",)),
        ({"tier": "paid", "queueId": "q_paid_batch"}, ("q_paid_batch",)),
    ],
)
def test_mode_and_tier_choose_the_queue(fields: dict[str, Any], queues: tuple[str, ...]) -> None:
    assert submission(**fields).queues == queues


def test_the_relay_finds_the_same_message_and_hash() -> None:
    """What is published carries everything, and nothing of the words that were for us."""
    found = submission(tier="auto", mode="batch", delay=60, retries=3, requestId="r9", variables={"n": 1.5, "ü": "x"})
    for queue in found.queues:
        mine = judged(found, queue)
        theirs = ingest(mine.raw, Route("batch", service="resume-review"), DEFAULT_QUEUES, {})
        assert (theirs.message, theirs.sha256) == (mine.message, mine.sha256)
        body = json.loads(mine.raw)
        assert set(body) == {"v", "taskId", "queueId", "serviceId", "userId", "tier", "variables", "requestId"}
        assert canonical_sha256(body) == mine.sha256


def test_a_task_without_an_id_gets_a_random_one() -> None:
    first, second = submission(taskId=None), submission(taskId=None)
    assert first.task_id != second.task_id
    assert len(first.task_id) == 32


@pytest.mark.parametrize(
    ("fields", "publishing", "delay_s"),
    [
        ({}, Publishing(retries=5), None),
        ({"delay": 0}, Publishing(), None),
        ({"delay": 60, "retries": 0}, Publishing(delay_s=60, retries=0), 60),
        ({"notBefore": int(NOW) + 90}, Publishing(not_before=int(NOW) + 90), 90),
        ({"notBefore": int(NOW) - 90}, Publishing(not_before=int(NOW) - 90), None),
        (
            {"flowControl": {"key": "k", "parallelism": 2, "rate": 5, "period": 60}},
            Publishing(flow_control=FlowControl("k", 2, 5, 60)),
            None,
        ),
    ],
)
def test_options_for_qstash(fields: dict[str, Any], publishing: Publishing, delay_s: float | None) -> None:
    found = submission(**fields)
    assert (found.publishing, found.delay_s) == (publishing, delay_s)


def test_options_are_written_as_qstash_reads_them() -> None:
    options = Publishing(delay_s=60, retries=2, flow_control=FlowControl("k", parallelism=2, rate=5, period_s=60))
    assert options.headers() == {
        "Upstash-Delay": "60s", "Upstash-Retries": "2", "Upstash-Flow-Control-Key": "k",
        "Upstash-Flow-Control-Value": "parallelism=2,rate=5,period=60s",
    }  # fmt: skip
    assert Publishing(not_before=7, retries=None).headers() == {"Upstash-Not-Before": "7"}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tier": None}, "tier"),
        ({"tier": "gold"}, "tier"),
        ({"mode": "live"}, "mode"),
        ({"queueId": "q_paid_stream", "mode": "stream"}, "queueId"),
        ({"queueId": "q_paid_stream", "tier": "auto"}, "queueId"),
        ({"queueId": 7}, "queueId"),
        ({"taskId": "a b"}, "taskId"),
        ({"taskId": 7}, "taskId"),
        ({"v": 2}, "v:"),
        ({"counted": True}, "counted"),
        ({"delay": -1}, "delay"),
        ({"delay": 91 * 86400}, "delay"),
        ({"delay": 1, "notBefore": 2}, "delay"),
        ({"notBefore": 1_800_000_000_000}, "notBefore"),
        ({"retries": 101}, "retries"),
        ({"flowControl": {"key": "k"}}, "flowControl"),
        ({"flowControl": {"key": "k", "rate": 0}}, "flowControl"),
        ({"flowControl": {"key": "a\r\nX: y", "rate": 1}}, "flowControl.key"),
        ({"flowControl": {"key": "k", "rate": 1, "burst": 2}}, "burst"),
    ],
)
def test_a_mistake_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(Rejected, match=named):
        submission(**fields)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff", b'{"a":' * 5000])
def test_what_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(Rejected):
        read(raw, NOW)


@pytest.mark.parametrize(
    ("fields", "queue", "code"),
    [
        ({"serviceId": "nope"}, None, Code.UNKNOWN_SERVICE),
        ({}, "q_nowhere", Code.INVALID_PAYLOAD),
        ({"queueId": "q_free_batch"}, None, Code.INVALID_PAYLOAD),  # its tier is free, and paid was asked for
        ({"modelId": "gpt-0"}, None, Code.INVALID_PAYLOAD),
        ({"userId": ""}, None, Code.INVALID_PAYLOAD),
        ({"surprise": 1}, None, Code.INVALID_PAYLOAD),
        ({"images": [{"blob": "redis:x"}]}, None, Code.INVALID_PAYLOAD),
        ({"images": [{"fileId": "f_1"}]}, None, Code.IMAGE_REJECTED),  # a service for text
        ({"variables": {"x": "y" * (1024 * 1024)}}, None, Code.INVALID_PAYLOAD),
        ({"expiresAt": NOW - 1}, None, Code.EXPIRED),
    ],
)
def test_what_the_daemon_would_refuse_is_refused_here(fields: dict[str, Any], queue: str | None, code: Code) -> None:
    with pytest.raises(Rejected) as refused:
        judged(submission(**fields), queue)
    assert refused.value.code is code


def test_the_callers_trace_goes_on_to_the_relay() -> None:
    """Its id in the message, its header through QStash; a trace id of the body's own counts more."""
    parent = parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    assert parent is not None
    found = read(json.dumps(BASE).encode(), NOW, parent)
    assert found.fields["traceId"] == parent.trace_id
    assert found.publishing.headers()["Upstash-Forward-traceparent"] == parent.text
    assert read(json.dumps(BASE | {"traceId": "mine"}).encode(), NOW, parent).fields["traceId"] == "mine"
    assert "traceId" not in read(json.dumps(BASE).encode(), NOW).fields
