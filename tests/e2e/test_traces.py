"""A producer's trace, from the header that QStash passes on to the collector, over real processes."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.e2e.world import World
from tests.waiting import WaitUntil

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

pytestmark = pytest.mark.timeout(120)


class Collector(HTTPServer):
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.spans: list[Span] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Taking(BaseHTTPRequestHandler):
    server: Any

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        request = ExportTraceServiceRequest()
        request.ParseFromString(gzip.decompress(raw) if self.headers.get("Content-Encoding") == "gzip" else raw)
        assert self.path == "/v1/traces"
        self.server.spans += [s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    """One that listens."""
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def attribute(span: Span, name: str) -> Any:
    """The value of one attribute."""
    return next((getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes if a.key == name), None)


async def test_a_trace_goes_from_the_producer_to_events_rows_logs_and_collector(
    world: World, collector: Collector, wait_until: WaitUntil
) -> None:
    """The attempt that fails is in the producer's trace, the one after it is linked to it."""
    daemon = await world.start_daemon(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY="200")
    await world.publish("t1", "f-error-mid-once", traceparent=f"00-{TRACE}-{SPAN}-01")
    await world.ended("t1")
    assert {event["traceId"] for event in await world.events("t1")} == {TRACE}
    assert (await world.row("t1"))["trace_id"] == TRACE
    await wait_until(lambda: len(daemon.log("attempt.ended")) == 2, description="both attempts are logged")
    assert {line["trace_id"] for line in daemon.log("attempt.ended")} == {TRACE}
    await wait_until(lambda: len(collector.spans) == 4, description="two attempts, two calls")
    attempts = {attribute(span, "qstreamd.attempt"): span for span in collector.spans if "process" in span.name}
    calls = [span for span in collector.spans if "chat" in span.name]
    first, second = attempts[1], attempts[2]
    assert (first.trace_id.hex(), first.parent_span_id.hex(), list(first.links)) == (TRACE, SPAN, [])
    assert second.parent_span_id == b"" and second.links[0].span_id.hex() == SPAN
    assert {call.parent_span_id for call in calls} == {first.span_id, second.span_id}
    assert attribute(first, "qstreamd.outcome") == "retrying" and attribute(second, "qstreamd.outcome") == "done"
    assert [attribute(call, "gen_ai.usage.output_tokens") for call in calls if attribute(call, "error.type") is None]
    await world.check()
