"""Every metric, with its unit in its name and, in its help, when it moves (protocol 11).

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
            for counter in (self.handed_back, self.reclaimed, self.restored, self.duplicates, self.poison):
                counter.labels(queue)

    def begin_relay(self, queues: Iterable[str]) -> None:
        """The same for what the relay judges."""
        for queue in queues:
            for outcome in ("queued", "duplicate", "full", "conflict"):
                self.accepted.labels(queue, outcome)
        for outcome in ("rejected", "unauthorized", "unavailable"):
            self.accepted.labels(UNKNOWN, outcome)

    def _accepting(self) -> None:
        self.relay_requests = self._counter(
            "relay_requests",
            "Moves once for each answered HTTP request of the relay, health included.",
            "route",
            "status",
        )
        self.relay_request_seconds = self._histogram(
            "relay_request_seconds", "From the request's head to the last byte of its answer.", RELAY_S, "route"
        )
        self.accepted = self._counter(
            "accepted",
            "Moves once for each judged task message. outcome: queued, duplicate, full, conflict (same id, other body),"
            " rejected, unauthorized, unavailable (Redis away or full, newer version, stopping).",
            "queue",
            "outcome",
        )

    def _gateway(self) -> None:
        self.gateway_requests = self._counter(
            "gateway_requests",
            "Moves once for each answered HTTP request of the gateway; a followed task counts when its viewer is gone.",
            "route",
            "status",
        )
        self.gateway_request_seconds = self._histogram(
            "gateway_request_seconds",
            "From the request's head to the last byte of its answer; connections of viewers are left out.",
            RELAY_S,
            "route",
        )
        self.viewers = self._gauge("viewers", "Connections that follow a task now. kind: sse, poll, ws.", "kind")
        self.viewers_dropped = self._counter(
            "viewers_dropped",
            "Moves when a viewer is sent away before the end of its task. why: slow, age, closing, error.",
            "why",
        )
        self.watched_tasks = self._gauge("watched_tasks", "Tasks with viewers in this process.")

    def _running(self) -> None:
        self.running = self._gauge("running", "Attempts of this process that hold a slot now.", "queue")
        self.slots = self._gauge("slots", "Slots of this process: attempts it runs at once at most.", "queue")
        self.wait_seconds = self._histogram(
            "wait_seconds", "From acceptance to the first claim; once a task, when it first starts.", WAIT_S, "queue"
        )
        self.first_token_seconds = self._histogram(
            "first_token_seconds",
            "From sending a streamed model call to its first delta; calls without a delta are not counted.",
            FIRST_TOKEN_S,
            "model",
        )
        self.attempt_seconds = self._histogram(
            "attempt_seconds", "From claim to settled; once an attempt.", TASK_S, "queue", "outcome"
        )
        self.task_seconds = self._histogram(
            "task_seconds",
            "From acceptance to the terminal state, waiting and retries included; once a task.",
            TASK_S,
            "queue",
            "outcome",
        )

    def _outcomes(self) -> None:
        self.attempts = self._counter(
            "attempts", "Moves when an attempt is settled. code is empty for success.", "queue", "outcome", "code"
        )
        self.retries = self._counter(
            "retries", "Moves when a failed attempt is scheduled to run again.", "queue", "code"
        )
        self.deferrals = self._counter(
            "deferrals", "Moves when a task is parked without counting a failure.", "queue", "reason"
        )
        self.dead_letters = self._counter("dead_letters", "Moves when a dead letter is written.", "queue", "code")
        self.handed_back = self._counter(
            "handed_back",
            "Moves when a task goes back to its queue unfinished: drain, lost lease, excess read.",
            "queue",
        )
        self.reclaimed = self._counter(
            "reclaimed", "Moves when an entry of a consumer that went silent is taken over.", "queue"
        )
        self.restored = self._counter(
            "restored", "Moves when a task that Redis had forgotten is put back from Postgres.", "queue"
        )
        self.fenced = self._counter(
            "fenced",
            "Moves when a write is refused as another attempt owns the task. what: event, result, ack, beat, release.",
            "what",
        )
        self.duplicates = self._counter(
            "duplicates", "Moves when a second entry of a running or ended task is dropped.", "queue"
        )
        self.poison = self._counter("poison", "Moves when an entry that can't be read is set aside.", "queue")
        self.guard_denied = self._counter(
            "guard_denied", "Moves each time a task finds a guard full and is parked. guard: model, user.", "guard"
        )

    def _models(self) -> None:
        self.model_closed = self._counter(
            "model_closed",
            "Moves when an attempt of this process closes a model for all. reason: RATE_LIMITED, OVERLOADED, QUOTA,"
            " BREAKER_OPEN.",
            "model",
            "reason",
        )
        self.tokens = self._counter(
            "tokens",
            "Grows by the usage of each settled attempt. kind: input (cached included), cached_input, output (reasoning"
            " included), reasoning.",
            "model",
            "kind",
        )
        self.cost_usd = self._counter(
            "cost_usd",
            "Grows by the price of each settled attempt, in US dollars; models without a price add none.",
            "model",
        )
        self.provider_calls = self._counter(
            "provider_calls",
            "Moves when a call of a provider ends. outcome: ok, or the error code.",
            "provider",
            "outcome",
        )

    def _images(self) -> None:
        self.uploads = self._counter(
            "uploads",
            "Moves once for each judged upload. outcome: stored, presigned, rejected (no picture we take), too_large,"
            " full (507: the share of the disk is used up), cut (it did not arrive), limited.",
            "outcome",
        )
        self.blob_disk_bytes = self._gauge("blob_disk_bytes", "Bytes of images below BLOB_DIR, at the last sweep.")
        self.blobs_swept = self._counter(
            "blobs_swept",
            "Moves when the sweep removes an image. why: over (its task has ended, or was never accepted), old, part"
            " (of an upload that was cut off), share (an old upload, as the share of the disk was used up).",
            "why",
        )
        self.blobs_left = self._counter(
            "blobs_left", "Moves when a task ends and its images could not be removed; the sweep takes them."
        )

    def _depths(self) -> None:
        self.queue_tasks = self._gauge(
            "queue_tasks",
            "Tasks of all processes, at the last look. state: waiting (unread), running, delayed (parked, or to"
            " be tried again), dead (letters).",
            "queue",
            "state",
        )
        self.queue_places = self._gauge(
            "queue_places", "Tasks promised or accepted that have not started; what fills the queue.", "queue"
        )
        self.queue_places_max = self._gauge("queue_places_max", "When the queue is full, as it is in force.", "queue")
        self.queue_paused = self._gauge("queue_paused", "1 while an operator has stopped the queue, else 0.", "queue")
        self.queue_consumers = self._gauge("queue_consumers", "Processes that live and read the queue.", "queue")
        self.queue_oldest_timestamp_seconds = self._gauge(
            "queue_oldest_timestamp_seconds",
            "When the oldest waiting task came to its stream (unix, Redis' clock); 0: none waits.",
            "queue",
        )
        self.guard_used = self._gauge("guard_used", "Attempts of all processes that hold a place.", "model", "tier")
        self.guard_limit = self._gauge("guard_limit", "Attempts of all processes at once at most.", "model", "tier")
        self.model_open = self._gauge(
            "model_open", "0 while the model is closed for all: rate limit, overload, quota, breaker; else 1.", "model"
        )
        self.redis_memory_bytes = self._gauge("redis_memory_bytes", "Memory that Redis says it uses.")
        self.redis_memory_max_bytes = self._gauge(
            "redis_memory_max_bytes", "Memory after which Redis refuses work; 0: no limit."
        )
        self.depths_timestamp_seconds = self._gauge(
            "depths_timestamp_seconds", "When Redis was last asked for the sizes above (unix, its own clock)."
        )

    def clear_depths(self) -> None:
        """Show no size of any queue or guard until they are set again: Redis can't be asked."""
        for gauge in (
            self.queue_tasks, self.queue_places, self.queue_places_max, self.queue_paused, self.queue_consumers,
            self.queue_oldest_timestamp_seconds, self.guard_used, self.guard_limit, self.model_open,
        ):  # fmt: skip
            gauge.clear()

    def _health(self) -> None:
        self.check_ok = self._gauge(
            "check_ok",
            "1 when the check held at this scrape, else 0. check: loop, reading, hearing (no work waits beside free"
            " slots), redis, postgres.",
            "check",
        )
        self.draining = self._gauge("draining", "1 from the signal to stop until the end, else 0.")
        self.connections = self._gauge(
            "connections", "Open connections of this process' pools. state: used, idle.", "server", "state"
        )
        self.connections_max = self._gauge("connections_max", "Connections that a pool may open.", "server")
        self.counter_repairs = self._counter(
            "counter_repairs",
            "Moves when the reconciler puts a queue's counter right. kind: raised, lowered, promise (one that was not"
            " kept).",
            "queue",
            "kind",
        )
        self.event_flushes = self._counter(
            "event_flushes", "Moves with each batch of event appends sent to Redis; one batch may hold many tasks."
        )
        self.redis_errors = self._counter(
            "redis_errors", "Moves when a Redis command fails. kind: away, full, nogroup, script.", "kind"
        )
        self.postgres_errors = self._counter(
            "postgres_errors", "Moves when a Postgres statement fails. kind: away, refused.", "kind"
        )
        self.counter_clamps = self._counter(
            "counter_clamps", "Moves when a queue's counter disagreed with its waiting set and was repaired.", "queue"
        )
        self.loop_lag_seconds = self._histogram(
            "loop_lag_seconds", "How late the event loop woke a sleeper; sampled about once a second.", LAG_S
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
