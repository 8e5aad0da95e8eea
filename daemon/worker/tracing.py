"""Spans for an OpenTelemetry collector: one for each attempt, and one inside it for its model call.

Made at the end of a delivery from what the report knows, so nothing on the way waits for them. The SDK is the extra
`otel`, imported only when OTEL_EXPORTER_OTLP_ENDPOINT is set; without it `traceparent` and the trace id are carried
all the same. Names follow OpenTelemetry's conventions for messaging and for generative AI; content is never told.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

from daemon import __version__
from daemon.observability.logging import logger
from daemon.observability.traceparent import TraceParent, parse
from daemon.pipeline.in_flight import InFlight, Trace

NESTED_S: Final = 600.0  #: an attempt that begins later is linked to the producer's span: no trace spans hours
FLUSH_S: Final = 5.0  #: for the last spans at the end of the process
_PROVIDERS: Final = {"gemini": "gcp.gemini"}
_OPERATIONS: Final = {"gemini": "generate_content"}
_log = logger(__name__)


class SpanMaker(Protocol):
    """What reports need."""

    def record(self, in_flight: InFlight, outcome: str, code: str, began: float, ended: float) -> None:
        """Tell of a delivery, `began` and `ended` in unix seconds."""


class NoSpans:
    """Tells nobody, and loads nothing."""

    def record(self, in_flight: InFlight, outcome: str, code: str, began: float, ended: float) -> None:
        """Nothing."""

    async def aclose(self) -> None:
        """Nothing."""


class Spans:
    """Tells a collector, in batches, from a thread of the SDK's own. `processor` stands in for it in tests."""

    def __init__(self, endpoint: str, instance: str, processor: Any = None) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        ours = {"service.version": __version__, "service.instance.id": instance}
        resource = Resource.create().merge(Resource(ours))
        if str(resource.attributes["service.name"]).startswith("unknown_service"):  # no OTEL_SERVICE_NAME
            resource = resource.merge(Resource({"service.name": "qstreamd"}))
        self._provider = TracerProvider(resource=resource)
        url = f"{endpoint.rstrip('/')}/v1/traces"
        self._provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
        self._tracer = self._provider.get_tracer("qstreamd")

    def record(self, in_flight: InFlight, outcome: str, code: str, began: float, ended: float) -> None:
        """The attempt, if there was one: a first one within the producer's span, a later one linked to it."""
        from opentelemetry import trace as otel

        entry, trace = in_flight.delivery.entry, in_flight.trace
        if entry is None or in_flight.attempt is None:
            return
        origin = parse(entry.traceparent)
        soon = in_flight.attempt == 1 and began - entry.accepted_at / 1000 <= NESTED_S
        context, links = otel.set_span_in_context(otel.INVALID_SPAN), []
        if origin is not None and soon:
            context = otel.set_span_in_context(otel.NonRecordingSpan(_remote(origin)))
        elif origin is not None:
            links = [otel.Link(_remote(origin))]
        span = self._tracer.start_span(
            f"process {in_flight.delivery.queue}", context, otel.SpanKind.CONSUMER, _attempt(in_flight, outcome, code),
            links, start_time=_ns(began),
        )  # fmt: skip
        if trace.called_at is not None and trace.execute_s is not None:
            inner = self._tracer.start_span(
                f"{_OPERATIONS.get(trace.provider, 'chat')} {trace.model_name}", otel.set_span_in_context(span),
                otel.SpanKind.CLIENT, _call(trace, code), start_time=_ns(trace.called_at),
            )  # fmt: skip
            if code and trace.usage is None:
                inner.set_status(otel.StatusCode.ERROR, code)
            inner.end(_ns(trace.called_at + trace.execute_s))
        if code and outcome in {"failed", "retrying"}:
            span.set_status(otel.StatusCode.ERROR, code)
        span.end(_ns(ended))

    async def aclose(self) -> None:
        """The last spans are sent, if the collector takes them within some seconds."""
        try:
            async with asyncio.timeout(FLUSH_S):
                await asyncio.to_thread(self._provider.shutdown)
        except TimeoutError:
            _log.warning("spans.flush_timed_out")


def open_spans(endpoint: str | None, instance: str) -> Spans | NoSpans:
    """Spans for the collector at `endpoint`; none without one, or where the extra is missing (which is logged)."""
    if endpoint is None:
        return NoSpans()
    try:
        return Spans(endpoint, instance)
    except ImportError:
        _log.warning(
            "spans.disabled", reason="OTEL_EXPORTER_OTLP_ENDPOINT is set, but the extra `otel` is not installed"
        )
        return NoSpans()


def _ns(at: float) -> int:
    return int(at * 1e9)


def _remote(origin: TraceParent) -> Any:
    from opentelemetry import trace as otel

    flags = otel.TraceFlags(otel.TraceFlags.SAMPLED if origin.sampled else otel.TraceFlags.DEFAULT)
    return otel.SpanContext(int(origin.trace_id, 16), int(origin.span_id, 16), is_remote=True, trace_flags=flags)


def _attempt(in_flight: InFlight, outcome: str, code: str) -> dict[str, Any]:
    return _known(
        {
            "messaging.system": "redis",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": in_flight.delivery.queue,
            "messaging.message.id": in_flight.delivery.entry_id,
            **{f"qstreamd.{name}": value for name, value in in_flight.ids.items()},
            "qstreamd.attempt": in_flight.attempt,
            "qstreamd.outcome": outcome,
            "qstreamd.wait_s": in_flight.trace.wait_s,
            "error.type": code or None,
        }
    )


def _call(trace: Trace, code: str) -> dict[str, Any]:
    usage = trace.usage
    attributes = {
        "gen_ai.operation.name": _OPERATIONS.get(trace.provider, "chat"),
        "gen_ai.provider.name": _PROVIDERS.get(trace.provider, trace.provider),
        "gen_ai.request.model": trace.model_name,
        "gen_ai.response.model": trace.answered_by or None,
        "gen_ai.response.finish_reasons": [trace.finish_reason] if trace.finish_reason else None,
        "gen_ai.response.time_to_first_chunk": trace.first_token_s,
        "qstreamd.model_id": trace.model_id,
        "error.type": code if code and usage is None else None,
    }
    if usage is not None:
        attributes |= {
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
            "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
            "qstreamd.cost_usd": usage.cost_usd,
        }
    return _known(attributes)


def _known(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}
