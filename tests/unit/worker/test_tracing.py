"""What a collector is told of an attempt, and that nobody pays for it who has none."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from daemon.domain.events import Usage
from daemon.domain.messages import TaskMessage, WorkEntry
from daemon.pipeline.in_flight import InFlight, Trace
from daemon.ports import Delivery
from daemon.worker.tracing import NESTED_S, NoSpans, Spans, open_spans

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
MESSAGE = TaskMessage(
    task_id="t1", queue_id="q", service_id="s", user_id="secret-user", variables={"resume": "canary-prompt"}
)
ENTRY = WorkEntry(message=MESSAGE, sha256="", accepted_at=1000_000, traceparent=f"00-{TRACE}-{SPAN}-01")


def told(
    entry: WorkEntry | None = ENTRY, *, attempt: int | None = 1, began: float = 1001.0, code: str = "", **trace: Any
) -> list[ReadableSpan]:
    """The spans of one delivery, the inner one first."""
    exporter = InMemorySpanExporter()
    spans = Spans("http://127.0.0.1:1", "host-1", SimpleSpanProcessor(exporter))
    in_flight = InFlight(Delivery("q", "tasks", "1-1", entry), attempt=attempt, trace=Trace(**trace))
    spans.record(in_flight, "retrying" if code else "done", code, began, began + 9)
    return list(exporter.get_finished_spans())


CALL: dict[str, Any] = {
    "model_id": "fast", "model_name": "deepseek-chat", "provider": "deepseek", "called_at": 1002.0, "execute_s": 7.0,
}  # fmt: skip


def test_a_first_attempt_is_a_child_of_the_producers_span() -> None:
    """Within its trace, with the model call inside it, at the times at which they were."""
    usage = Usage(input_tokens=7, cached_input_tokens=2, output_tokens=3, reasoning_tokens=1, cost_usd=0.5)
    call, attempt = told(
        **CALL, usage=usage, first_token_s=0.4, finish_reason="stop", answered_by="deepseek-chat-0324", wait_s=1.0
    )
    assert attempt.context is not None and attempt.parent is not None and call.parent is not None
    assert f"{attempt.context.trace_id:032x}" == TRACE and f"{attempt.parent.span_id:016x}" == SPAN
    assert call.parent.span_id == attempt.context.span_id and not attempt.links
    assert (attempt.name, attempt.start_time, attempt.end_time) == ("process q", 1001 * 10**9, 1010 * 10**9)
    assert (call.name, call.start_time, call.end_time) == ("chat deepseek-chat", 1002 * 10**9, 1009 * 10**9)
    assert call.attributes == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "deepseek", "gen_ai.request.model": "deepseek-chat",
        "gen_ai.response.model": "deepseek-chat-0324", "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.time_to_first_chunk": 0.4, "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 2, "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.reasoning.output_tokens": 1, "qstreamd.model_id": "fast", "qstreamd.cost_usd": 0.5,
    }  # fmt: skip
    about = attempt.attributes or {}
    assert (about["qstreamd.task_id"], about["qstreamd.attempt"], about["qstreamd.wait_s"]) == ("t1", 1, 1.0)
    assert attempt.resource.attributes["service.name"] == "qstreamd"
    assert "secret-user" not in attempt.to_json() + call.to_json() and "canary" not in attempt.to_json()


@pytest.mark.parametrize(("attempt", "began"), [(2, 1001.0), (1, 1000 + NESTED_S + 1)])
def test_a_later_attempt_is_linked_not_nested(attempt: int, began: float) -> None:
    """A retry, or a task that had waited long: a trace of its own, so that none spans hours."""
    [span] = told(attempt=attempt, began=began)
    assert span.parent is None and span.context is not None and f"{span.context.trace_id:032x}" != TRACE
    [link] = span.links
    assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == (TRACE, SPAN)


def test_what_failed_says_so() -> None:
    call, attempt = told(code="LLM_TIMEOUT", **CALL | {"provider": "gemini"})
    assert call.name == "generate_content deepseek-chat"
    assert (call.attributes or {})["gen_ai.provider.name"] == "gcp.gemini"
    for span in (call, attempt):
        assert span.status.status_code is StatusCode.ERROR
        assert (span.attributes or {})["error.type"] == "LLM_TIMEOUT"


def test_a_producer_without_traces_gets_a_trace_of_ours() -> None:
    [span] = told(msgspec.structs.replace(ENTRY, traceparent=""))
    assert span.parent is None and not span.links


def test_a_producer_who_did_not_sample_is_followed() -> None:
    assert told(msgspec.structs.replace(ENTRY, traceparent=f"00-{TRACE}-{SPAN}-00")) == []


def test_what_never_became_an_attempt_is_not_told() -> None:
    """A task that is parked at a guard a hundred times would be a hundred spans."""
    assert told(attempt=None) == told(None) == []


def test_a_missing_extra_is_a_warning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A host that has a collector for others must not stop us."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert isinstance(open_spans("http://127.0.0.1:4318", "host-1"), NoSpans)
    assert "spans.disabled" in capsys.readouterr().err


def test_without_an_endpoint_the_sdk_is_not_even_imported() -> None:
    """By us: redis-py looks for it by itself where it is installed."""
    code = (
        "import sys; from daemon.worker.tracing import open_spans; open_spans(None, 'x');"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=True)
    assert found.stdout.strip() == "[]"
