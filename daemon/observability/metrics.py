"""Every metric, with its unit in its name and, in its help, what it counts (protocol 11).

One `Metrics` belongs to one process and owns its registry: nothing is global, so tests and two roles in one process do
not meet. Labels are closed sets; a name that came from outside and is not known (a queue in a refused call) counts as
`unknown`, never under its own name, and no id of a task or user ever becomes a label. Hot paths bind children once:

    first_token = metrics.first_token_seconds.labels(model_id)
    first_token.observe(0.7)
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric

from daemon import __version__

UNKNOWN: Final = "unknown"  #: label value for a name that is none of ours
CONTENT_TYPE: Final = CONTENT_TYPE_LATEST  #: of `Metrics.render`; holds a charset, so set it as a header

#: a task or an attempt: model calls last 2 s to 4 min; "done within 1, 2, 3, 5 minutes" is an exact question
TASK_S: Final = (0.5, 1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 150, 180, 240, 300, 600, 1800)
#: waiting: nothing when there is a free slot, hours when a tier is closed
WAIT_S: Final = (0.05, 0.25, 1, 5, 15, 30, 60, 120, 180, 300, 600, 1800, 7200)
#: until the viewer sees something
FIRST_TOKEN_S: Final = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 60, 120, 180, 300)
#: the light call: a millisecond, or the 3 s within which a 503 is promised
RELAY_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 60, 120, 180, 300)
LAG_S: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """The metrics of one process. Attributes are named as the metric without `qstreamd_` and `_total`."""

    def __init__(self, *, process: bool = True) -> None:
        """`process` False leaves out memory and CPU of the process (for a second `Metrics` in it)."""
        self.registry = CollectorRegistry()
        self._accepting()
        self._gateway()
        self._running()
        self._outcomes()
        self._models()
        self._images()
        self._depths()
        self._health()
        if process:
            ProcessCollector(namespace="qstreamd", registry=self.registry)

    def render(self) -> bytes:
        """The text that a Prometheus server reads from /metrics; send it as `CONTENT_TYPE`."""
        return generate_latest(_WithoutCreated(self.registry))

    def begin_daemon(self, queues: Iterable[str]) -> None:
        """Show zeros for these queues: a counter that is born at 1 has no increase, and an alert would miss it."""
        for queue in queues:
            for counter in (self.requeued, self.reclaimed, self.restored, self.duplicates, self.poison):
                counter.labels(queue)

    def begin_relay(self, queues: Iterable[str]) -> None:
        """The same for the outcomes of the relay."""
        for queue in queues:
            for outcome in ("queued", "duplicate", "full", "conflict"):
                self.accepted.labels(queue, outcome)
        for outcome in ("rejected", "unauthorized", "unavailable"):
            self.accepted.labels(UNKNOWN, outcome)

    def _accepting(self) -> None:
        self.relay_requests = self._counter(
            "relay_requests",
            "Number of HTTP requests that the relay answered, health checks included.",
            "route",
            "status",
        )
        self.relay_request_seconds = self._histogram(
            "relay_request_seconds", "Time from the request's head to the last byte of its answer.", RELAY_S, "route"
        )
        self.accepted = self._counter(
            "accepted",
            "Number of task messages handled, by outcome: queued, duplicate, full, conflict (same id, other body),"
            " rejected, unauthorized, unavailable (Redis away or full, newer version, stopping).",
            "queue",
            "outcome",
        )

    def _gateway(self) -> None:
        self.gateway_requests = self._counter(
            "gateway_requests",
            "Number of HTTP requests that the gateway answered; a connection of a viewer counts when it is closed.",
            "route",
            "status",
        )
        self.gateway_request_seconds = self._histogram(
            "gateway_request_seconds",
            "Time from the request's head to the last byte of its answer; connections of viewers are left out.",
            RELAY_S,
            "route",
        )
        self.viewers = self._gauge(
            "viewers", "Number of open viewer connections. transport: sse, poll, ws.", "transport"
        )
        self.viewers_dropped = self._counter(
            "viewers_dropped",
            "Number of viewers disconnected before the end of their task. reason: slow, age, closing, error.",
            "reason",
        )
        self.watched_tasks = self._gauge("watched_tasks", "Number of tasks with viewers in this process.")

    def _running(self) -> None:
        self.attempts_in_flight = self._gauge("attempts_in_flight", "Number of attempts that hold a slot.", "queue")
        self.slots = self._gauge("slots", "Number of slots of this process.", "queue")
        self.wait_seconds = self._histogram(
            "wait_seconds", "Time from acceptance to the first claim; observed once for each task.", WAIT_S, "queue"
        )
        self.first_token_seconds = self._histogram(
            "first_token_seconds",
            "Time from sending a streamed model call to its first delta; calls without a delta are not observed.",
            FIRST_TOKEN_S,
            "model",
        )
        self.attempt_seconds = self._histogram(
            "attempt_seconds",
            "Time from claim to settlement; observed once for each attempt.",
            TASK_S,
            "queue",
            "outcome",
        )
        self.task_seconds = self._histogram(
            "task_seconds",
            "Time from acceptance to the terminal state, waiting and retries included; observed once for each task.",
            TASK_S,
            "queue",
            "outcome",
        )

    def _outcomes(self) -> None:
        self.attempts = self._counter(
            "attempts", "Number of attempts settled. code is empty for success.", "queue", "outcome", "code"
        )
        self.retries = self._counter("retries", "Number of failed attempts scheduled to run again.", "queue", "code")
        self.snoozes = self._counter(
            "snoozes", "Number of times a task was delayed without counting a failure.", "queue", "reason"
        )
        self.dead_letters = self._counter("dead_letters", "Number of dead letters written.", "queue", "code")
        self.requeued = self._counter(
            "requeued", "Number of tasks returned to their queue unfinished: drain, lost lease, excess read.", "queue"
        )
        self.reclaimed = self._counter("reclaimed", "Number of entries taken over from silent consumers.", "queue")
        self.restored = self._counter("restored", "Number of tasks lost by Redis and put back from Postgres.", "queue")
        self.quarantine_runs = self._counter(
            "quarantine_runs",
            "Number of tasks in quarantine, each in a child process, by its end. outcome: settled (done, failed or put"
            " off), convicted (the process died: a dead letter), unsettled (the task runs in quarantine again).",
            "queue",
            "outcome",
        )
        self.fenced = self._counter(
            "fenced",
            "Number of writes refused because another attempt owns the task. operation: event, result, ack, heartbeat,"
            " release.",
            "operation",
        )
        self.duplicates = self._counter(
            "duplicates", "Number of second entries of a running or ended task that were dropped.", "queue"
        )
        self.poison = self._counter("poison", "Number of entries that can't be decoded; dead letters.", "queue")
        self.concurrency_limited = self._counter(
            "concurrency_limited",
            "Number of times a task got no permit of a concurrency limiter. guard: the limiter, model or user.",
            "guard",
        )

    def _models(self) -> None:
        self.model_cooldowns = self._counter(
            "model_cooldowns",
            "Number of times an attempt of this process made a model unavailable for all. reason: RATE_LIMITED,"
            " OVERLOADED, QUOTA, BREAKER_OPEN.",
            "model",
            "reason",
        )
        self.tokens = self._counter(
            "tokens",
            "Number of tokens used by settled attempts. type: input (cached included), cached_input, output (reasoning"
            " included), reasoning.",
            "model",
            "type",
        )
        self.cost_usd = self._counter(
            "cost_usd", "Cost of settled attempts in US dollars; models without a price add none.", "model"
        )
        self.answers = self._counter(
            "answers",
            "Number of answers stored. finish_reason: stop, length (cut at a limit), filtered, none (or unknown).",
            "model",
            "finish_reason",
        )
        self.provider_calls = self._counter(
            "provider_calls",
            "Number of calls of a provider that have ended. outcome: ok, or the error code.",
            "provider",
            "outcome",
        )

    def _images(self) -> None:
        self.uploads = self._counter(
            "uploads",
            "Number of uploads handled. outcome: stored, presigned, rejected (no picture we take), too_large,"
            " full (507: the share of the disk is used up), cut (it did not arrive), limited.",
            "outcome",
        )
        self.blob_disk_bytes = self._gauge("blob_disk_bytes", "Bytes of images below BLOB_DIR, at the last sweep.")
        self.blobs_swept = self._counter(
            "blobs_swept",
            "Number of images removed by the sweep. reason: over (its task has ended, or was never accepted), old, part"
            " (of an upload that was cut off), share (an old upload, as the share of the disk was used up).",
            "reason",
        )
        self.blob_cleanup_failures = self._counter(
            "blob_cleanup_failures",
            "Number of tasks that ended while their images could not be removed; the sweep removes them later.",
        )

    def _depths(self) -> None:
        self.queue_tasks = self._gauge(
            "queue_tasks",
            "Number of tasks of all processes. state: waiting (unread), running, delayed (snoozed, or scheduled for a"
            " retry), dead (letters).",
            "queue",
            "state",
        )
        self.queue_occupancy = self._gauge(
            "queue_occupancy", "Number of tasks reserved or accepted, not started.", "queue"
        )
        self.queue_capacity = self._gauge("queue_capacity", "Occupancy at which the queue is full.", "queue")
        self.queue_paused = self._gauge("queue_paused", "1 while an operator has paused the queue, else 0.", "queue")
        self.queue_consumers = self._gauge("queue_consumers", "Number of live processes that read the queue.", "queue")
        self.queue_oldest_timestamp_seconds = self._gauge(
            "queue_oldest_timestamp_seconds",
            "Time when the oldest waiting task was appended to its stream (unix, Redis' clock); 0: none waits.",
            "queue",
        )
        self.permits_in_use = self._gauge("permits_in_use", "Number of model permits held.", "model", "tier")
        self.permits_max = self._gauge("permits_max", "Concurrency limit of the model.", "model", "tier")
        self.model_available = self._gauge(
            "model_available", "0 while a rate limit, overload, quota or breaker blocks the model, else 1.", "model"
        )
        self.redis_memory_bytes = self._gauge("redis_memory_bytes", "Memory in use, as Redis reports it.")
        self.redis_memory_max_bytes = self._gauge(
            "redis_memory_max_bytes", "Memory limit of Redis, beyond which it refuses writes; 0: no limit."
        )
        self.depths_timestamp_seconds = self._gauge(
            "depths_timestamp_seconds", "Time when the sizes above were last read from Redis (unix, its own clock)."
        )

    def clear_depths(self) -> None:
        """Show no size of any queue or concurrency limit until they are set again: Redis can't be asked."""
        for gauge in (
            self.queue_tasks, self.queue_occupancy, self.queue_capacity, self.queue_paused, self.queue_consumers,
            self.queue_oldest_timestamp_seconds, self.permits_in_use, self.permits_max, self.model_available,
        ):  # fmt: skip
            gauge.clear()

    def _health(self) -> None:
        self.check_ok = self._gauge(
            "check_ok",
            "1 when the check passed at this scrape, else 0. check: loop, reading, consuming (no work waits beside free"
            " slots), redis, postgres.",
            "check",
        )
        self.draining = self._gauge("draining", "1 from the signal to stop until the process ends, else 0.")
        self.connections = self._gauge(
            "connections", "Number of open connections of this process' pools. state: used, idle.", "server", "state"
        )
        self.connections_max = self._gauge("connections_max", "Number of connections that a pool may open.", "server")
        self.counter_repairs = self._counter(
            "counter_repairs",
            "Number of repairs of a queue's counter. reason: raised, lowered, reservation (expired).",
            "queue",
            "reason",
        )
        self.event_flushes = self._counter(
            "event_flushes", "Number of batches of event appends sent to Redis; one batch may hold many tasks."
        )
        self.redis_errors = self._counter(
            "redis_errors", "Number of failed Redis commands. reason: away, full, nogroup, script.", "reason"
        )
        self.postgres_errors = self._counter(
            "postgres_errors", "Number of failed Postgres statements. reason: away, refused.", "reason"
        )
        self.counter_clamps = self._counter(
            "counter_clamps", "Number of times a queue's counter disagreed with its waiting set.", "queue"
        )
        self.loop_lag_seconds = self._histogram(
            "loop_lag_seconds", "Delay of a timer of the event loop; sampled about once a second.", LAG_S
        )
        self.build_info = Info("qstreamd_build", "Always 1; the labels say what runs.", registry=self.registry)
        self.build_info.info({"version": __version__, "python": platform.python_version()})

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(f"qstreamd_{name}", help_, labels, registry=self.registry)

    def _gauge(self, name: str, help_: str, *labels: str) -> Gauge:
        return Gauge(f"qstreamd_{name}", help_, labels, registry=self.registry)

    def _histogram(self, name: str, help_: str, edges: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"qstreamd_{name}", help_, labels, buckets=edges, registry=self.registry)


class _WithoutCreated:
    """A registry without the `_created` samples: they double the series, and only a global switch stops them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
            yield metric
