"""Every route with its answers, as data for the OpenAPI description. A test holds it against what the code serves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from daemon.contract_docs.schemas import Schema
from daemon.contract_docs.shapes import TASK_ID, TEXT, ref
from daemon.domain.messages import SERVICE_PATTERN
from daemon.domain.queues import QUEUE_PATTERN
from daemon.gateway.follow import WAIT_S_DEFAULT, WAIT_S_MAX

JSON: Final = "application/json"
SSE: Final = "text/event-stream"
PLAIN: Final = "text/plain"


@dataclass(frozen=True)
class ResponseDoc:
    """One status: when, with which bodies by media type and which headers."""

    when: str
    bodies: dict[str, Schema] = field(default_factory=dict)
    headers: tuple[str, ...] = ()


Answers = dict[int, ResponseDoc]


@dataclass(frozen=True)
class Route:
    """One method of one path. `who`: the security schemes of which one must hold; none: anybody."""

    method: str
    path: str
    server: str  #: relay, gateway, ops, or all
    title: str
    answers: Answers
    who: tuple[str, ...] = ()
    bodies: dict[str, Schema] = field(default_factory=dict)
    parameters: tuple[Schema, ...] = ()
    deprecated: bool = False


def _says(when: str, shape: str, *headers: str) -> ResponseDoc:
    return ResponseDoc(when, {JSON: ref(shape)}, headers)


def _parameter(place: str, name: str, told: str, schema: Schema, *, required: bool = False) -> Schema:
    return {"in": place, "name": name, "description": told, "required": required or place == "path", "schema": schema}


# --- relay ------------------------------------------------------------------------------------------------------------

_SIGNED: Final[Answers] = {
    401: _says("the signature is missing, wrong, expired or meant for another URL", "BadSignature"),
    489: _says("it can never succeed as it is", "Refusal", "Upstash-NonRetryable-Error"),
    500: _says("a bug of ours; QStash comes back", "RefusalForNow", "Retry-After"),
    503: _says("Redis is away, slow or full; the relay stops; `v` is newer", "RefusalForNow", "Retry-After"),
}
_ACCEPTING: Final[Answers] = {
    200: _says("in the work stream, now (`queued`) or before (`duplicate`)", "Accepted"),
    429: _says("the queue is full: nothing was accepted", "RefusalForNow", "Retry-After"),
    **_SIGNED,
}
_OF_QSTASH: Final = (
    _parameter("header", "Upstash-Message-Id", "names the task of a schedule", TEXT),
    _parameter("header", "Upstash-Schedule-Id", "of a schedule: `taskId` may be absent", TEXT),
    _parameter("header", "Upstash-Retried", "how often it came before: the pause grows", TEXT),
)
_SERVICE: Final = _parameter("path", "service", "which service runs", {"type": "string", "pattern": SERVICE_PATTERN})
_QUEUE: Final = _parameter("path", "queueId", "the queue", {"type": "string", "pattern": QUEUE_PATTERN})


def _delivery(path: str, title: str, *required: str, parameters: tuple[Schema, ...] = (), old: bool = False) -> Route:
    answers = _ACCEPTING
    if old:
        answers = {s: ResponseDoc(a.when, a.bodies, (*a.headers, "Deprecation")) for s, a in answers.items()}
    body: Schema = {"allOf": [ref("WorkerBody"), {"type": "object", "required": list(required)}]}
    return Route(
        "post", path, "relay", title, answers, ("signature",), {JSON: body}, (*parameters, *_OF_QSTASH), deprecated=old
    )


_RELAY: Final = (
    _delivery("/api/worker/stream/{service}", "A task of a stream queue", "queueId", parameters=(_SERVICE,)),
    _delivery("/api/worker/batch/{service}", "A task of a batch queue", "queueId", parameters=(_SERVICE,)),
    _delivery("/api/execute/stream", "A task of a stream queue; the body names the service", "queueId", "serviceId"),
    _delivery("/api/execute/batch", "A task of a batch queue; the body names the service", "queueId", "serviceId"),
    _delivery("/worker/execute", "A task of any queue", "queueId", "serviceId"),
    _delivery("/api/worker/queue/{queueId}", "As the old adapters", "serviceId", parameters=(_QUEUE,), old=True),
    Route(
        "post", "/api/worker/check", "relay", "Whether a message would be accepted; queues nothing",
        {200: _says("what a delivery would be answered", "Check"), **_SIGNED},
        ("signature",), {JSON: ref("WorkerBody")}, _OF_QSTASH,
    ),
    Route(
        "post", "/api/qstash/failed", "relay", "QStash's failure callback: ends the task unless it was accepted",
        {200: _says("what became of the task; `ignored`: its message names none", "Failed"), **_SIGNED},
        ("signature",), {JSON: ref("FailureCallback")},
    ),
)  # fmt: skip

# --- gateway ----------------------------------------------------------------------------------------------------------

_KEY: Final = ("apiKey", "apiKeyHeader")
_TOKEN: Final = ("taskToken", "taskTokenQuery", "taskTokenCookie")
_TICKET: Final = ("uploadTicket", "uploadTicketQuery")
_KNOWN: Final[Answers] = {
    401: _says("no key, token or ticket of ours", "Refusal", "WWW-Authenticate"),
    429: _says("too many calls, viewers, or failures of this address", "RefusalForNow", "Retry-After"),
    503: _says("Redis or Postgres is away", "RefusalForNow", "Retry-After"),
}
_NOT_THERE: Final[Answers] = {404: _says("not there, or somebody else's", "Refusal")}
_TASK: Final = _parameter("path", "taskId", "the task", TASK_ID)
_AFTER: Final = _parameter("query", "after", "a stream id: tell what came after it", TEXT)

_GATEWAY: Final = (
    Route(
        "post", "/api/tasks", "gateway", "Submit a task",
        {
            202: _says("taken, now or before", "Submitted"),
            400: _says("it can never succeed as it is; `message` names the mistake", "Refusal"),
            408: _says("the body did not arrive", "Refusal"),
            413: _says("more than 1 MiB", "Refusal"),
            422: _says("this `taskId` was submitted with another body", "Refusal"),
            **_KNOWN,
        },
        _KEY, {JSON: ref("Submission")},
    ),
    Route(
        "get", "/api/tasks/{taskId}", "gateway", "State, result and why it waits",
        {200: _says("what is known", "Task"), **_NOT_THERE, **_KNOWN}, (*_KEY, *_TOKEN), {}, (_TASK,),
    ),
    Route(
        "get", "/api/tasks/{taskId}/events", "gateway", "Follow by SSE (`Accept: text/event-stream`) or long poll",
        {
            200: ResponseDoc("the events after the cursor", {JSON: ref("Poll"), SSE: TEXT}),
            204: ResponseDoc("SSE: the cursor is the terminal event; EventSource does not come back"),
            400: _says("`wait` is not possible", "Refusal"),
            **_NOT_THERE, **_KNOWN,
        },
        _TOKEN, {},
        (
            _TASK, _AFTER,
            _parameter("query", "wait", "long poll: seconds to wait for the first event",
                       {"type": "number", "minimum": 0, "maximum": WAIT_S_MAX, "default": WAIT_S_DEFAULT}),
            _parameter("header", "Last-Event-ID", "SSE: as `after`, and before it", TEXT),
        ),
    ),
    Route(
        "get", "/api/tasks/{taskId}/ws", "gateway", "Follow a task by WebSocket",
        {
            101: ResponseDoc("each event is a text message: its JSON with the stream id as `id`"),
            400: _says("not a WebSocket handshake", "Refusal"),
            **_NOT_THERE, **_KNOWN,
        },
        _TOKEN, {}, (_TASK, _AFTER),
    ),
    Route(
        "post", "/api/tasks/{taskId}/cancel", "gateway", "End a task wherever it is",
        {
            200: _says("it has ended, in this state", "TaskState"),
            202: _says("on its way to `cancelled`", "TaskState"),
            **_NOT_THERE, **_KNOWN,
        },
        (*_KEY, *_TOKEN), {}, (_TASK,),
    ),
    Route(
        "post", "/api/uploads", "gateway", "Upload an image to this host (scheme 2)",
        {
            202: _says("kept until its task is over, or `expiresAt`", "Uploaded"),
            400: _says("it did not arrive whole", "Refusal"),
            408: _says("it did not arrive in time", "Refusal"),
            413: _says("too large", "Refusal"),
            415: _says("no image that a model takes", "Refusal"),
            501: _says("BLOB_STORE=s3: presign instead", "Refusal"),
            507: _says("no room for images now", "RefusalForNow", "Retry-After"),
            **_KNOWN,
        },
        _TICKET,
        {
            "image/*": {"type": "string", "contentMediaType": "image/*"},
            "multipart/form-data": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}},
        },
    ),
    Route(
        "post", "/api/uploads/presign", "gateway", "An address in the bucket to PUT an image to (scheme 3)",
        {
            202: _says("PUT the bytes to `url` with these headers", "Presigned"),
            400: _says("the body can't be read", "Refusal"),
            413: _says("too large", "Refusal"),
            415: _says("no type that a model takes", "Refusal"),
            501: _says("no bucket is configured", "Refusal"),
            **_KNOWN,
        },
        _TICKET, {JSON: ref("Wish")},
    ),
    Route("get", "/api/queues", "gateway", "How full the queues are", {200: _says("all", "Queues"), **_KNOWN}, _KEY),
)  # fmt: skip

# --- the daemon's own port, and what all three have -------------------------------------------------------------------

_GUARDED: Final[Answers] = {
    401: _says("not ADMIN_TOKEN", "Refusal"),
    403: _says("a page of another site", "Refusal"),
    404: ResponseDoc("ADMIN_TOKEN is not set; unknown queue or order", {JSON: ref("Refusal"), PLAIN: TEXT}),
    503: _says("Redis is away", "Refusal"),
}
_OPS: Final = (
    Route(
        "get", "/api/admin/queues", "ops", "The queues with their sizes and orders",
        {200: _says("all", "QueueViews"), **_GUARDED}, ("admin",),
    ),
    Route(
        "post", "/api/admin/queues/{queue}/{order}", "ops", "Give an order to a queue; audited",
        {200: _says("done", "QueueOrdered"), 422: _says("not a body for this order", "Refusal"), **_GUARDED},
        ("admin",), {JSON: ref("QueueOrder")},
        (
            _parameter("path", "queue", "the queue", TEXT),
            _parameter("path", "order", "what to do", {"enum": ["pause", "resume", "set", "purge"]}),
        ),
    ),
)  # fmt: skip
_ALL: Final = (
    Route(
        "get", "/healthz/live", "all", "Whether a restart would cure anything",
        {200: _says("it lives", "Live"), 503: _says("daemon: its loop does not hear its queues", "Live")},
    ),
    Route(
        "get", "/healthz/ready", "all", "Whether it can work",
        {200: _says("ready", "Ready"), 503: _says("not ready, or stopping", "Ready")},
    ),
    Route("get", "/metrics", "all", "Its numbers for Prometheus", {200: ResponseDoc("text format", {PLAIN: TEXT})}),
)  # fmt: skip

ROUTES: Final = (*_RELAY, *_GATEWAY, *_OPS, *_ALL)
