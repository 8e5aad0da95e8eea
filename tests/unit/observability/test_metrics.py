"""The register of metrics: names, labels, buckets, and what a Prometheus server reads."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

import daemon
from daemon import __version__
from daemon.observability.metrics import CONTENT_TYPE, UNKNOWN, Metrics

#: attribute -> labels: what dashboards and alerts are written against (protocol 11)
LABELS = {
    "relay_requests": ("route", "status"),
    "relay_request_seconds": ("route",),
    "accepted": ("queue", "outcome"),
    "gateway_requests": ("route", "status"),
    "gateway_request_seconds": ("route",),
    "viewers": ("transport",),
    "viewers_dropped": ("reason",),
    "watched_tasks": (),
    "attempts_in_flight": ("queue",),
    "slots": ("queue",),
    "wait_seconds": ("queue",),
    "first_token_seconds": ("model",),
    "attempt_seconds": ("queue", "outcome"),
    "task_seconds": ("queue", "outcome"),
    "answers": ("model", "finish_reason"),
    "attempts": ("queue", "outcome", "code"),
    "retries": ("queue", "code"),
    "snoozes": ("queue", "reason"),
    "dead_letters": ("queue", "code"),
    "requeued": ("queue",),
    "reclaimed": ("queue",),
    "restored": ("queue",),
    "quarantine_runs": ("queue", "outcome"),
    "fenced": ("operation",),
    "duplicates": ("queue",),
    "poison": ("queue",),
    "concurrency_limited": ("guard",),
    "tokens": ("model", "type"),
    "cost_usd": ("model",),
    "uploads": ("outcome",),
    "blob_disk_bytes": (),
    "blobs_swept": ("reason",),
    "blob_cleanup_failures": (),
    "event_flushes": (),
    "redis_errors": ("reason",),
    "postgres_errors": ("reason",),
    "provider_calls": ("provider", "outcome"),
    "loop_lag_seconds": (),
    "counter_clamps": ("queue",),
    "counter_repairs": ("queue", "reason"),
    "model_cooldowns": ("model", "reason"),
    "queue_tasks": ("queue", "state"),
    "queue_occupancy": ("queue",),
    "queue_capacity": ("queue",),
    "queue_paused": ("queue",),
    "queue_consumers": ("queue",),
    "queue_oldest_timestamp_seconds": ("queue",),
    "permits_in_use": ("model", "tier"),
    "permits_max": ("model", "tier"),
    "model_available": ("model",),
    "redis_memory_bytes": (),
    "redis_memory_max_bytes": (),
    "depths_timestamp_seconds": (),
    "check_ok": ("check",),
    "draining": (),
    "connections": ("server", "state"),
    "connections_max": ("server",),
    "build_info": (),
}


def metrics_of(metrics: Metrics) -> dict[str, MetricWrapperBase]:
    """Its metrics by attribute."""
    return {name: value for name, value in vars(metrics).items() if isinstance(value, MetricWrapperBase)}


def edges(histogram: Histogram) -> Iterable[float]:
    """The upper bounds of its buckets."""
    return histogram._upper_bounds


def test_every_metric_has_its_public_name_and_labels() -> None:
    """A change here is a change of the contract: it needs a new name."""
    found = {name: tuple(metric._labelnames) for name, metric in metrics_of(Metrics()).items()}
    assert found == LABELS


def test_names_carry_prefix_and_unit_and_the_help_says_what_is_counted() -> None:
    """Seconds and dollars are in the name; the attribute is the name without prefix."""
    for attribute, metric in metrics_of(Metrics()).items():
        described = next(iter(metric.describe()))
        assert described.name == f"qstreamd_{attribute.removesuffix('_info')}"
        assert isinstance(metric, Histogram) == bool(re.search(r"(?<!timestamp)_seconds$", attribute))
        assert described.documentation.endswith(".") and len(described.documentation) > 20
        if isinstance(metric, Counter):
            assert re.match(r"(Number of|Cost of) ", described.documentation), attribute
        assert set(metric._labelnames).isdisjoint({"task", "task_id", "user", "user_id"})


def test_finished_within_the_promise_is_an_exact_question() -> None:
    """Durations of work have bucket edges at 60, 120, 180 and 300 s; all edges rise."""
    for attribute, metric in metrics_of(Metrics()).items():
        if isinstance(metric, Histogram):
            assert list(edges(metric)) == sorted(set(edges(metric)))
            if attribute != "loop_lag_seconds":
                assert {60, 120, 180, 300} <= set(edges(metric)), attribute


def test_a_scrape_holds_what_was_counted_and_nothing_twice() -> None:
    """Readable by the library's own parser; no `_created` series."""
    metrics = Metrics()
    metrics.accepted.labels("q_paid_stream", "queued").inc()
    metrics.task_seconds.labels(queue="q_paid_stream", outcome="done").observe(60.0)
    metrics.tokens.labels(UNKNOWN, "input").inc(12)
    text = metrics.render().decode()
    samples = {
        (s.name, *sorted(s.labels.items())): s.value for f in text_string_to_metric_families(text) for s in f.samples
    }
    assert samples[("qstreamd_accepted_total", ("outcome", "queued"), ("queue", "q_paid_stream"))] == 1
    assert samples[("qstreamd_tokens_total", ("model", "unknown"), ("type", "input"))] == 12
    done = (("outcome", "done"), ("queue", "q_paid_stream"))
    assert samples[("qstreamd_task_seconds_bucket", ("le", "60.0"), *done)] == 1  # exactly 60 s is within 60 s
    assert samples[("qstreamd_task_seconds_bucket", ("le", "45.0"), *done)] == 0
    names = {str(key[0]) for key in samples}
    assert not [name for name in names if name.endswith("_created")]
    assert all(name.startswith("qstreamd_") for name in names)
    assert CONTENT_TYPE.startswith("text/plain")


def test_a_scrape_says_what_runs_and_what_it_uses() -> None:
    """Version, and the memory and CPU of the process (Linux)."""
    text = Metrics().render().decode()
    assert 'qstreamd_build_info{python="' in text and f'version="{__version__}"' in text
    assert "qstreamd_process_resident_memory_bytes" in text
    assert "qstreamd_process" not in Metrics(process=False).render().decode()


def test_two_registers_do_not_meet() -> None:
    """Nothing is global: two roles in one process, or two tests."""
    first, second = Metrics(), Metrics()
    first.event_flushes.inc()
    assert b"qstreamd_event_flushes_total 1.0" in first.render()
    assert b"qstreamd_event_flushes_total 0.0" in second.render()


def test_children_are_bound_once() -> None:
    """The hot path holds a child; asking again gives the same one."""
    metrics = Metrics()
    assert metrics.attempts_in_flight.labels("q") is metrics.attempts_in_flight.labels("q")
    assert isinstance(metrics.attempts_in_flight, Gauge)


def test_a_label_that_is_not_declared_is_refused() -> None:
    """No id can become a label by mistake."""
    with pytest.raises(ValueError, match="label"):
        Metrics().accepted.labels(queue="q", outcome="queued", task="t1")


def test_counters_that_alerts_watch_are_there_before_they_move() -> None:
    """A counter that is born at 1 has no increase: the first lost task, or the first refused call, would be missed."""
    metrics = Metrics(process=False)
    metrics.begin_daemon(["q_paid_stream"])
    metrics.begin_relay(["q_paid_stream"])
    text = metrics.render().decode()
    assert 'qstreamd_restored_total{queue="q_paid_stream"} 0.0' in text
    assert 'qstreamd_accepted_total{outcome="unauthorized",queue="unknown"} 0.0' in text
    assert 'qstreamd_accepted_total{outcome="full",queue="q_paid_stream"} 0.0' in text


def test_every_metric_is_moved_by_some_module() -> None:
    """One that nobody moves would show a calm that is none."""
    package = Path(daemon.__file__).parent
    code = "\n".join(path.read_text() for path in package.rglob("*.py") if path.name != "metrics.py")
    still = {name for name in metrics_of(Metrics()) if not re.search(rf"\b\w+\.{name}\b", code)}
    assert still <= {"build_info", "counter_repairs"}  # the second: by the reconciler, which is being written


def test_sizes_that_are_not_known_are_not_shown() -> None:
    """An old number would be believed."""
    metrics = Metrics(process=False)
    metrics.queue_tasks.labels("q", "waiting").set(3)
    metrics.clear_depths()
    assert "qstreamd_queue_tasks{" not in metrics.render().decode()
