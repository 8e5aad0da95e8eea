"""A task as its viewer sees it, and streams that break what the protocol promises."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.dev.demo.orders import Order
from daemon.dev.demo.watching import Phase, Watched
from daemon.domain.events import Event, EventType
from daemon.domain.messages import content_sha256

STREAM = Order("letter", "q_paid_stream", "cover-letter", "mara", "breaks off once", attempts=2)
BATCH = Order("match", "q_paid_batch", "job-match", "mara", "comes twice", twice=True)
USAGE = {"inputTokens": 7, "outputTokens": 3}


def event(kind: str, attempt: int, seq: int, at: float = 100.0, **fields: Any) -> Event:
    """An event as it is read."""
    data = {"attempt": attempt, "seq": seq, "timestamp": at, **fields}
    return Event(f"{int(at * 1000)}-{seq}", EventType(kind), data)


def done(attempt: int, seq: int, text: str, at: float = 110.0) -> Event:
    """The terminal event over `text`."""
    sha = content_sha256(text)
    return event("done", attempt, seq, at, usage=USAGE, resultRef="db:result:t1", contentSha256=sha, result=text)


def watched(*events: Event, order: Order = STREAM) -> Watched:
    """A task after these events."""
    task = Watched(order, "t1")
    for each in events:
        task.apply(each)
    return task


RETRIED = (
    event("queued", 0, 0, 100.0, queueId="q_paid_stream"),
    event("started", 1, 1, 100.5, modelId="gpt"),
    event("progress", 1, 2, 100.6, stage="load", message="reading"),
    event("token_batch", 1, 3, 101.0, delta="Dear ", channel="text"),
    event("token_batch", 1, 4, 101.1, delta="hm", channel="reasoning"),
    event("error", 1, 5, 102.0, code="LLM_ERROR", message="m", retryable=True, retryAt=103.5),
    event("progress", 1, 6, 102.0, reason="RETRY_AT", stage="queue", message="again soon"),
    event("started", 2, 1, 103.6, modelId="gpt"),
    event("token_batch", 2, 2, 104.0, delta="Hello you", channel="text"),
)


def test_a_retried_task_shows_only_the_text_of_its_last_attempt() -> None:
    task = watched(*RETRIED, done(2, 3, "Hello you"))
    assert (task.phase, task.attempt, task.text, task.broken) == (Phase.DONE, 2, "Hello you", [])
    assert task.ended and task.result_ref == "db:result:t1"
    assert task.wait_s == pytest.approx(0.5)
    assert task.first_token_s == pytest.approx(0.4)
    assert task.duration_s == pytest.approx(9.5)


def test_between_two_attempts_it_is_known_why_and_when() -> None:
    task = watched(*RETRIED[:7])
    assert (task.phase, task.code, task.retry_at, task.note) == (
        Phase.RETRYING,
        "LLM_ERROR",
        103.5,
        "LLM_ERROR after 1 word",
    )


def test_a_parked_task_says_what_it_waits_for() -> None:
    task = watched(RETRIED[0], event("progress", 0, 1, reason="GUARD_USER", stage="guards", message="m"))
    assert (task.phase, task.note) == (Phase.WAITING, "GUARD_USER")
    assert task.first_token_s is None and task.result_ref is None


def test_a_failed_task_keeps_its_code_and_the_text_for_users() -> None:
    task = watched(*RETRIED[:2], event("error", 1, 2, code="LLM_REFUSED", message="refused", retryable=False))
    assert (task.phase, task.code, task.note, task.ended) == (Phase.FAILED, "LLM_REFUSED", "refused", True)


def test_a_task_that_fails_before_its_start_has_waited_until_then() -> None:
    task = watched(RETRIED[0], event("error", 0, 1, 101.0, code="EXPIRED", message="m", retryable=False))
    assert (task.wait_s, task.duration_s) == (1.0, 0.0)


def test_words_are_counted_in_chinese_too() -> None:
    task = watched(*RETRIED[:2], event("token_batch", 1, 2, delta="首屏 1.6 秒, fine。", channel="text"))
    assert task.words == 6


@pytest.mark.parametrize(
    ("events", "complaint"),
    [
        ((RETRIED[1],), "the first event is started 1:1, not queued 0:0"),
        ((RETRIED[0], event("started", 1, 2, modelId="gpt")), "attempt 1 begins at seq 2, not 1"),
        ((*RETRIED[:2], RETRIED[3]), "1:3 follows 1:1"),
        ((*RETRIED[:8], event("progress", 1, 7, stage="load", message="m")), "1:7 follows 2:1"),
        ((*RETRIED, done(2, 3, "Hello you"), event("progress", 2, 4, stage="load")), "progress after the end"),
        ((*RETRIED, done(2, 3, "Dear Hello you")), "the deltas are not what contentSha256 names"),
    ],
)  # fmt: skip
def test_a_stream_that_breaks_a_promise_is_told(events: tuple[Event, ...], complaint: str) -> None:
    assert watched(*events).broken == [complaint]


def test_a_batch_task_is_not_held_to_deltas_that_it_does_not_send() -> None:
    task = watched(RETRIED[0], RETRIED[1], done(1, 2, "whole"), order=BATCH)
    assert (task.streams, task.broken, task.text) == (False, [], "")
