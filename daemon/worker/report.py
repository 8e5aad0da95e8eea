"""One log line and one set of observations for each delivery, at its end; nothing on the way logs or counts.

The task is settled by then: a span, a metric or a log line that fails is dropped and logged, and nothing is raised.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final, assert_never

from daemon.domain.events import Usage
from daemon.observability.logging import logger
from daemon.observability.metrics import Metrics
from daemon.pipeline.in_flight import InFlight
from daemon.pipeline.outcome import (
    Abandoned,
    CompletedAgain,
    Done,
    Dropped,
    Failed,
    Fenced,
    Isolated,
    Outcome,
    Refused,
    Requeued,
    Retrying,
    Snoozed,
)
from daemon.worker.tracing import NoSpans, SpanMaker

_log = logger(__name__)
_NO_SPANS: Final = NoSpans()

_PLAIN: Final = {
    Done: "done",
    Requeued: "requeued",
    CompletedAgain: "repeated",
    Fenced: "fenced",
    Refused: "refused",
    Abandoned: "abandoned",
    Isolated: "quarantined",
}


def report(
    metrics: Metrics, in_flight: InFlight, outcome: Outcome, attempt_s: float, now: float, spans: SpanMaker = _NO_SPANS
) -> None:
    """Count and log how a delivery ended. `attempt_s` from read to settled, `now` in unix seconds. Raises nothing."""
    name, code = _label(outcome)
    observers: dict[str, Callable[[], None]] = {
        "span": lambda: spans.record(in_flight, name, code, now - attempt_s, now),
        "metrics": lambda: _observe(metrics, in_flight, outcome, attempt_s, now),
        "log": lambda: _write_line(in_flight, outcome, attempt_s),
    }
    for part, observe in observers.items():
        try:
            observe()
        except Exception as error:  # noqa: BLE001  # the task is settled: what only tells of it may not end the process
            with suppress(Exception):
                _log.exception("report.failed", part=part, error=type(error).__name__, task_id=in_flight.task_id)


def _observe(metrics: Metrics, in_flight: InFlight, outcome: Outcome, attempt_s: float, now: float) -> None:
    queue, trace = in_flight.delivery.queue, in_flight.trace
    entry = in_flight.delivery.entry
    task_s = max(0.0, now - entry.accepted_at / 1000) if entry else 0.0
    name, code = _label(outcome)
    _count(metrics, queue, outcome, task_s)
    metrics.attempts.labels(queue, name, code).inc()
    metrics.attempt_seconds.labels(queue, name).observe(attempt_s)
    if trace.wait_s is not None:
        metrics.wait_seconds.labels(queue).observe(trace.wait_s)
    if trace.first_token_s is not None:
        metrics.first_token_seconds.labels(trace.model_id).observe(trace.first_token_s)
    if trace.execute_s is not None:
        metrics.provider_calls.labels(trace.provider, code or "ok").inc()
    if (usage := trace.usage or trace.spent) is not None:
        _count_usage(metrics, trace.model_id, usage)
    if isinstance(outcome, Done):
        metrics.answers.labels(trace.model_id, trace.finish_reason or "none").inc()
    if trace.blobs_left:
        metrics.blob_cleanup_failures.inc()
    for model, why in trace.closed:
        metrics.model_cooldowns.labels(model, why).inc()


def _write_line(in_flight: InFlight, outcome: Outcome, attempt_s: float) -> None:
    queue = in_flight.delivery.queue
    name, code = _label(outcome)
    for model, why in in_flight.trace.closed:
        # A quota is used up until somebody pays: waiting alone does not help, so it is an error.
        (_log.error if why == "QUOTA" else _log.warning)("model.unavailable", model=model, reason=why)
    log = _log.warning if isinstance(outcome, Failed | Abandoned | Fenced) else _log.info
    seconds = _rounded(attempt_s)
    log("attempt.ended", queue=queue, **_fields(in_flight), outcome=name, code=code or None, attempt_s=seconds)


def _fields(in_flight: InFlight) -> dict[str, object]:
    trace = in_flight.trace
    usage = trace.usage or trace.spent
    return {
        **(in_flight.ids or {"task_id": ""}),
        "entry_id": in_flight.delivery.entry_id,
        "attempt": in_flight.attempt,
        "model": trace.model_id or None,
        "wait_s": _rounded(trace.wait_s),
        "first_token_s": _rounded(trace.first_token_s),
        "execute_s": _rounded(trace.execute_s),
        "finish_reason": trace.finish_reason or None,
        "output_tokens": usage.output_tokens if usage else None,
        "cost_usd": usage.cost_usd if usage else None,
        "detail": trace.detail or None,
        "blobs_left": trace.blobs_left or None,
    }


def _label(outcome: Outcome) -> tuple[str, str]:
    match outcome:
        case Retrying(code):
            return "retrying", code.value
        case Snoozed(reason):
            return "snoozed", reason.value
        case Failed(code):
            return "failed", code.value
        case Dropped(why):
            return why, ""
        case Done() | Requeued() | CompletedAgain() | Fenced() | Refused() | Abandoned() | Isolated():
            return _PLAIN[type(outcome)], ""
        case _:
            assert_never(outcome)


def _count(metrics: Metrics, queue: str, outcome: Outcome, task_s: float) -> None:
    match outcome:
        case Done():
            metrics.task_seconds.labels(queue, "done").observe(task_s)
        case Failed():
            metrics.task_seconds.labels(queue, "failed").observe(task_s)
        case Retrying(code):
            metrics.retries.labels(queue, code.value).inc()
        case Snoozed(reason):
            metrics.snoozes.labels(queue, reason.value).inc()
            if reason.value.startswith("GUARD_"):
                metrics.concurrency_limited.labels(reason.value.removeprefix("GUARD_").lower()).inc()
        case Dropped("poison"):
            metrics.poison.labels(queue).inc()
        case Dropped():
            metrics.duplicates.labels(queue).inc()
        case Fenced():
            metrics.fenced.labels("result").inc()
        case _:
            pass


def _count_usage(metrics: Metrics, model: str, usage: Usage) -> None:
    for kind in ("input", "cached_input", "output", "reasoning"):
        metrics.tokens.labels(model, kind).inc(getattr(usage, f"{kind}_tokens") or 0)
    if usage.cost_usd:
        metrics.cost_usd.labels(model).inc(usage.cost_usd)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
