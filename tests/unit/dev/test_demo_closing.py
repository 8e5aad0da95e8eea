"""The judgement at the end, and how it is shown to people and programs."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast

from rich.console import Console

from daemon.dev.demo import closing
from daemon.dev.demo.closing import Check, Closing
from daemon.dev.demo.watching import Watched
from daemon.dev.demo.world import World
from daemon.domain.messages import content_sha256
from tests.unit.dev.test_demo_watching import BATCH, RETRIED, STREAM, done, event, watched

GOOD = watched(*RETRIED, done(2, 3, "Hello you"))
FAILED = watched(*RETRIED[:2], event("error", 1, 2, code="LLM_REFUSED", message="refused", retryable=False))
ROW: dict[str, Any] = {
    "task_id": "demo-1-letter", "attempt": 1, "outcome": "failed", "code": "LLM_ERROR", "result": None, "chars": None,
    "usd": Decimal("0.001571"), "sha256": "51bb646f",
}  # fmt: skip


def ended(*tasks: Watched, checks: tuple[Check, ...] = ()) -> Closing:
    """A closing over these tasks."""
    return Closing(tasks=tasks, rows=[ROW], checks=checks, first_token_s=3.21, took_s=12.3)


def shown(end: Closing, width: int) -> str:
    """What a terminal of that width prints."""
    console = Console(width=width, file=io.StringIO(), color_system=None)
    with console.capture() as captured:
        closing.show(console, end)
    return captured.get()


def test_tables_fit_80_columns_and_cut_nothing() -> None:
    text = shown(ended(GOOD), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "first token after 3.2 s, everything after 12.3 s" in text


def test_wide_terminals_get_more_columns() -> None:
    assert "cover-letter" in shown(ended(GOOD), 100) and "51bb646f" in shown(ended(GOOD), 100)


def test_a_broken_promise_is_shown_with_what_was_found() -> None:
    end = ended(GOOD, FAILED, checks=(Check("kept"), Check("all are done", ["letter: failed LLM_REFUSED"])))
    text = shown(end, 80)
    assert not end.good
    assert " ✓ kept" in text and " ✗ all are done\n     letter: failed LLM_REFUSED" in text
    assert "LLM_REFUSED" in text.splitlines()[4]


def test_nothing_at_all_can_be_shown() -> None:
    text = shown(Closing(tasks=(), rows=(), checks=(), first_token_s=None, took_s=1.0), 80)
    assert "no token, everything after 1.0 s" in text


def test_programs_get_the_same_as_json() -> None:
    said = json.loads(json.dumps(closing.as_json(ended(GOOD, FAILED, checks=(Check("kept"),)))))
    assert said["ok"] is True and said["firstTokenS"] == 3.21
    assert said["tasks"][0] | {"waitS": 0.5} == {
        "taskId": "t1", "queueId": "q_paid_stream", "serviceId": "cover-letter", "state": "done", "attempt": 2,
        "waitS": 0.5, "firstTokenS": 0.4, "durationS": 9.5, "usage": {"inputTokens": 7, "outputTokens": 3},
        "resultRef": "db:result:t1", "contentSha256": content_sha256("Hello you"), "errorCode": None,
    }  # fmt: skip
    assert said["tasks"][1]["errorCode"] == "LLM_REFUSED"
    assert said["rows"][0]["usd"] == 0.001571


def test_a_result_that_is_not_what_was_streamed_is_found() -> None:
    row = {"state": "done", "attempt": 2, "content": "Hello you", "content_sha256": content_sha256("Hello you")}
    assert closing._other_texts([GOOD], {"t1": row}) == []
    assert closing._other_texts([GOOD], {}) == ["letter: no result"]
    assert closing._other_texts([GOOD], {"t1": {**row, "content": "Hello"}}) == ["letter: they differ"]
    late = {**row, "state": "running", "attempt": 1}
    assert closing._other_texts([GOOD], {"t1": late}) == ["letter: running, attempt 1 in Postgres"]


def test_tasks_that_did_not_end_as_they_should_are_named() -> None:
    assert closing._not_done([GOOD, FAILED, Watched(STREAM, "t2")]) == ["letter: failed LLM_REFUSED", "letter: asked"]
    assert closing._other_attempts([GOOD, FAILED]) == ["letter: attempt 1"]


def world(*answers: tuple[int, bytes], calls: int = 1, images: int = 0) -> World:
    """Stand-ins that saw these calls."""
    sent = [SimpleNamespace(body=b'{"taskId":"t1"}', answer=SimpleNamespace(status=s, body=b)) for s, b in answers]
    models = SimpleNamespace(calls=[SimpleNamespace(images=images) for _ in range(calls)])
    return cast("World", SimpleNamespace(qstash=SimpleNamespace(delivered=sent), models=models))


def test_a_call_that_comes_twice_must_run_once() -> None:
    task = watched(RETRIED[0], RETRIED[1], done(1, 2, "whole"), order=BATCH)
    queued, again = (200, b'{"status":"queued"}'), (200, b'{"status":"duplicate"}')
    assert closing._calls(world(queued, again), [task]) == []
    assert closing._calls(world(queued, again, calls=2), [task]) == ["2 calls of a model, not 1"]
    assert closing._calls(world(queued), [task]) == ["match: queued"]
    assert closing._calls(world(), [task]) == ["match: no call"]
    assert closing._calls(world(queued, (503, b"")), [task]) == ["match: queued, 503"]


def test_pictures_that_no_model_saw_are_missed() -> None:
    assert closing._pictures(world(images=1), [GOOD]) == ["1 of 0"]
    assert closing._pictures(world(), [GOOD]) == []
