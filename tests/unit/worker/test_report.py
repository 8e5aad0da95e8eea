"""One line and one set of observations for each delivery, whichever way it ended."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.domain.errors import Code
from daemon.domain.events import Reason, Usage
from daemon.domain.messages import TaskMessage, WorkEntry
from daemon.observability.metrics import Metrics
from daemon.pipeline.in_flight import InFlight, Trace
from daemon.pipeline.outcome import (
    Abandoned,
    CompletedAgain,
    Done,
    Dropped,
    Failed,
    Fenced,
    Outcome,
    Requeued,
    Retrying,
    Snoozed,
)
from daemon.ports import Delivery
from daemon.worker.report import report

Q = {"queue": "q"}
MESSAGE = TaskMessage(task_id="t1", queue_id="q", service_id="s", user_id="u", request_id="r1", trace_id="tr1")
ENTRY = WorkEntry(message=MESSAGE, sha256="", accepted_at=0)


def told(outcome: Outcome, **trace: Any) -> Metrics:
    metrics = Metrics(process=False)
    in_flight = InFlight(Delivery("q", "tasks", "1-1", ENTRY), trace=Trace(**trace))
    report(metrics, in_flight, outcome, 2.0, 5.0)
    return metrics


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"qstreamd_{name}", labels) or 0.0


@pytest.mark.parametrize(("reason", "label"), [("length", "length"), ("stop", "stop"), ("", "none")])
def test_each_answer_is_counted_by_why_it_ended(reason: str, label: str) -> None:
    labels = {"model": "m", "finish_reason": label}
    assert value(told(Done("m", Usage()), model_id="m", finish_reason=reason), "answers_total", **labels) == 1
    assert value(told(Failed(Code.LLM_ERROR), model_id="m", finish_reason=reason), "answers_total", **labels) == 0


def test_what_a_failed_attempt_has_cost_is_counted() -> None:
    metrics = told(Failed(Code.LLM_ERROR), model_id="m", spent=Usage(100, None, 7, None, 0.5))
    assert value(metrics, "tokens_total", model="m", type="input") == 100
    assert value(metrics, "cost_usd_total", model="m") == 0.5


@pytest.mark.parametrize(
    ("outcome", "name", "code", "moved"),
    [
        (Done("m", Usage()), "done", "", ("task_seconds_sum", {**Q, "outcome": "done"}, 5.0)),
        (Failed(Code.LLM_ERROR), "failed", "LLM_ERROR", ("task_seconds_sum", {**Q, "outcome": "failed"}, 5.0)),
        (Retrying(Code.LLM_ERROR, 1), "retrying", "LLM_ERROR", ("retries_total", {**Q, "code": "LLM_ERROR"}, 1.0)),
        (
            Snoozed(Reason.RATE_LIMITED, 1), "snoozed", "RATE_LIMITED",
            ("snoozes_total", {**Q, "reason": "RATE_LIMITED"}, 1.0),
        ),
        (
            Snoozed(Reason.GUARD_USER, 1), "snoozed", "GUARD_USER",
            ("concurrency_limited_total", {"guard": "user"}, 1.0),
        ),
        (Dropped("poison"), "poison", "", ("poison_total", Q, 1.0)),
        (Dropped("duplicate"), "duplicate", "", ("duplicates_total", Q, 1.0)),
        (Dropped("task_id_conflict"), "task_id_conflict", "", ("duplicates_total", Q, 1.0)),
        (Fenced(), "fenced", "", ("fenced_total", {"operation": "result"}, 1.0)),
        (Requeued(), "requeued", "", None),
        (CompletedAgain(), "repeated", "", None),
        (Abandoned("RedisAway"), "abandoned", "", None),
    ],
)  # fmt: skip
def test_every_outcome_is_counted_under_its_name(
    outcome: Outcome, name: str, code: str, moved: tuple[str, dict[str, str], float] | None
) -> None:
    """One attempt, its seconds, and what is counted apart for this outcome; a task's seconds only at its end."""
    metrics = told(outcome)
    assert value(metrics, "attempts_total", queue="q", outcome=name, code=code) == 1
    assert value(metrics, "attempt_seconds_sum", queue="q", outcome=name) == 2.0
    if moved is not None:
        assert value(metrics, moved[0], **moved[1]) == moved[2]
    ends = sum(value(metrics, "task_seconds_count", queue="q", outcome=end) for end in ("done", "failed"))
    assert ends == isinstance(outcome, Done | Failed)


def test_what_was_measured_is_observed_and_the_rest_is_not() -> None:
    """Times, usage and price belong to the model; a call that never was counts nowhere."""
    usage = Usage(100, 40, 20, 5, 0.25)
    metrics = told(
        Done("m", usage), model_id="m", provider="openai", wait_s=1.0, first_token_s=0.5, execute_s=3.0, usage=usage
    )
    assert value(metrics, "wait_seconds_sum", queue="q") == 1.0
    assert value(metrics, "first_token_seconds_sum", model="m") == 0.5
    assert value(metrics, "provider_calls_total", provider="openai", outcome="ok") == 1
    types = ("input", "cached_input", "output", "reasoning")
    assert [value(metrics, "tokens_total", model="m", type=name) for name in types] == [100, 40, 20, 5]
    assert value(metrics, "cost_usd_total", model="m") == 0.25
    bare = told(Failed(Code.UNKNOWN_SERVICE))
    assert b"qstreamd_provider_calls_total{" not in bare.render()
    assert b"qstreamd_wait_seconds_count{" not in bare.render()


def test_a_failed_call_is_counted_under_its_code() -> None:
    """The vendor's errors by kind."""
    metrics = told(Retrying(Code.LLM_TIMEOUT, 1), model_id="m", provider="gemini", execute_s=3.0)
    assert value(metrics, "provider_calls_total", provider="gemini", outcome="LLM_TIMEOUT") == 1


def test_models_that_were_closed_and_images_that_stayed_are_counted() -> None:
    """A quota that is used up and a bucket that refused a delete are for operators to see."""
    metrics = told(Done("m", Usage()), closed=[("pro", "QUOTA"), ("flash", "OVERLOADED")], blobs_left="StoreAway")
    assert value(metrics, "model_cooldowns_total", model="pro", reason="QUOTA") == 1
    assert value(metrics, "model_cooldowns_total", model="flash", reason="OVERLOADED") == 1
    assert value(metrics, "blob_cleanup_failures_total") == 1


def test_the_line_says_what_an_operator_asks(capsys: pytest.CaptureFixture[str]) -> None:
    """Outcome, code, detail and the ids to look for it by, under a dotted name."""
    told(Failed(Code.LLM_ERROR), detail="status 500", model_id="m")
    line = "".join(capsys.readouterr())
    assert all(word in line for word in ("attempt.ended", "LLM_ERROR", "status 500", "t1", "r1", "tr1"))


class Broken:
    """Raises at whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


@pytest.mark.parametrize("part", ["span", "metrics", "log", "all"])
def test_what_only_tells_of_a_settled_task_raises_nothing_and_stops_nothing_else(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken observer costs its own word; the others have theirs."""
    metrics, spans, lines = Metrics(process=False), SpanRecorder(), capture_lines(monkeypatch)
    if part in ("log", "all"):
        monkeypatch.setattr("daemon.worker.report._log", Broken())
    in_flight = InFlight(Delivery("q", "tasks", "1-1", ENTRY))
    told_spans = Broken() if part in ("span", "all") else spans
    told_metrics = Broken() if part in ("metrics", "all") else metrics
    report(told_metrics, in_flight, Done("m", Usage()), 2.0, 5.0, told_spans)  # type: ignore[arg-type]
    assert bool(spans.names) == (part not in ("span", "all"))
    assert bool(value(metrics, "attempts_total", queue="q", outcome="done", code="")) == (
        part not in ("metrics", "all")
    )
    assert ("attempt.ended" in lines) == (part not in ("log", "all"))
    assert ("report.failed" in lines) == (part in ("span", "metrics"))


@pytest.mark.parametrize("usage", [Usage(-1, -1, -1, -1, -1.0), Usage(10**30), Usage(None, None, None, None)])
def test_absurd_usage_cannot_raise(usage: Usage) -> None:
    """Adapters let none through; if one does, the task is settled all the same."""
    metrics = told(Done("m", usage), usage=usage, model_id="m")
    assert value(metrics, "task_seconds_count", queue="q", outcome="done") == 1


class SpanRecorder:
    """Remembers the outcomes it was told of."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def record(self, in_flight: InFlight, outcome: str, code: str, began: float, ended: float) -> None:
        """See `SpanMaker`."""
        self.names.append(outcome)


def capture_lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the lines that are logged from now on."""
    lines: list[str] = []

    class Log:
        def __getattr__(self, level: str) -> Any:
            return lambda event, **_: lines.append(event)

    monkeypatch.setattr("daemon.worker.report._log", Log())
    return lines
