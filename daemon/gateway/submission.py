"""What a server sends to `POST /api/tasks`, read and judged. Pure.

It is a task message (protocol 2) with a few words of its own beside it: `mode` and `tier: "auto"` choose the queue,
`delay`, `notBefore`, `retries` and `flowControl` are for QStash.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec

from daemon.blobs.inline import decode
from daemon.domain import messages
from daemon.domain.errors import Rejected
from daemon.domain.model_io import Picture
from daemon.domain.queues import QueueSpec, Tier
from daemon.gateway.qstash import FlowControl, Publishing
from daemon.observability.traceparent import TraceParent
from daemon.pipeline.validate import validate
from daemon.services import ServiceCatalog

DELAY_S_MAX: Final = 90 * 86400  #: QStash's longest
_AUTO: Final = (Tier.PAID, Tier.FREE)


class FlowLimits(msgspec.Struct, forbid_unknown_fields=True):
    """QStash's own limits for messages of one key."""

    key: str
    parallelism: int | None = None
    rate: int | None = None
    period: int | None = None


class Options(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """What a submission says beside its task message."""

    mode: Literal["stream", "batch", "vision"] | None = None
    tier: Literal["paid", "free", "auto"] | None = None
    delay: int | None = None
    not_before: int | None = None
    retries: int | None = None
    flow_control: FlowLimits | None = None


_OPTIONS: Final = frozenset(field.encode_name for field in msgspec.structs.fields(Options))


class Submission(NamedTuple):
    """A body that names its task; `queues` are where it may go, first choice first."""

    task_id: str
    fields: Mapping[str, Any]
    tier: str | None  #: as asked for
    queues: tuple[str, ...]
    publishing: Publishing
    delay_s: float | None  #: from now; None: at once


class CheckedSubmission(NamedTuple):
    """A submission for one queue, as the relay will see it. `raw` is what is published, `sha256` its identity."""

    message: messages.TaskMessage
    queue: QueueSpec
    raw: bytes
    sha256: str
    pictures: Mapping[int, Picture]


def read(raw: bytes, now: float, parent: TraceParent | None = None) -> Submission:
    """The submission in a body; `taskId` is made up when absent. Raises `Rejected`. `now` in unix seconds.

    `parent`: the caller's trace, which the task goes on with unless the body names one.
    """
    try:
        body = msgspec.convert(messages.read_body(raw), dict[str, Any])
        options = msgspec.convert({key: body[key] for key in _OPTIONS & body.keys()}, Options)
    except msgspec.ValidationError as error:
        raise Rejected(f"body: {error}") from error
    except (ValueError, RecursionError) as error:
        raise Rejected(f"body: not JSON ({type(error).__name__})") from error
    fields = {key: value for key, value in body.items() if key not in _OPTIONS}
    fields.setdefault("v", messages.CONTRACT_VERSION)
    task_id = fields.setdefault("taskId", uuid.uuid4().hex)
    if not isinstance(task_id, str) or not messages.TASK_ID.fullmatch(task_id):
        raise Rejected(f"taskId: allowed: {messages.ID_PATTERN}")
    if fields["v"] != messages.CONTRACT_VERSION:
        raise Rejected(f"v: allowed: {messages.CONTRACT_VERSION}")
    if "counted" in fields:
        raise Rejected("counted: the gateway takes the place itself; leave it out")
    if parent is not None and fields.get("traceId") is None:
        fields["traceId"] = parent.trace_id
    publishing = _publishing(options, parent.text if parent else "")
    delay_s = options.delay if options.not_before is None else max(0.0, options.not_before - now)
    return Submission(task_id, fields, options.tier, _queues(fields, options), publishing, delay_s or None)


def check_submission(
    submission: Submission, queue_id: str, queues: Mapping[str, QueueSpec], catalog: ServiceCatalog, now: float
) -> CheckedSubmission:
    """The submission as a message for `queue_id`. Raises `Rejected`. `queues` have the sizes that are in force."""
    queue = queues.get(queue_id)
    if queue is None:
        raise Rejected(f"queueId: {queue_id[:80]!r} is unknown; known: {', '.join(sorted(queues))}")
    if submission.tier not in {None, "auto", queue.tier}:
        raise Rejected(f"queueId: {queue_id} is not for tier {submission.tier}")
    raw = msgspec.json.encode({**submission.fields, "queueId": queue_id, "tier": queue.tier})
    if len(raw) > messages.BODY_BYTES_MAX:
        raise Rejected(f"body: {len(raw)} bytes; at most {messages.BODY_BYTES_MAX} are allowed")
    body = msgspec.json.decode(raw)  # as the relay will read it, so that both find the same hash
    message = messages.parse_message(body)
    if any(image.blob is not None for image in message.images or ()):
        raise Rejected("images: blob is not allowed; allowed: data, fileId, fileKey")
    validate(message, queue_id, catalog, now)
    return CheckedSubmission(message, queue, raw, messages.canonical_sha256(body), decode(message.images or ()))


def _queues(fields: dict[str, Any], options: Options) -> tuple[str, ...]:
    named = fields.pop("queueId", None)
    if named is not None:
        if not isinstance(named, str) or options.mode is not None or options.tier == "auto":
            raise Rejected('queueId: with it leave out mode, and tier may not be "auto"')
        return (named,)
    if options.tier is None:
        raise Rejected("tier: allowed: paid, free, auto; or name a queueId")
    mode = options.mode or ("vision" if fields.get("images") else "stream")
    tiers = _AUTO if options.tier == "auto" else (Tier(options.tier),)
    return tuple(f"q_{tier}_{mode}" for tier in tiers)


def _publishing(options: Options, traceparent: str) -> Publishing:
    delay, retries, flow = options.delay, options.retries, options.flow_control
    if delay is not None and options.not_before is not None:
        raise Rejected("delay: with notBefore leave it out")
    if delay is not None and not 0 <= delay <= DELAY_S_MAX:
        raise Rejected(f"delay: allowed: 0 to {DELAY_S_MAX} seconds")
    if options.not_before is not None and not 0 <= options.not_before < messages.UNIX_SECONDS_MAX:
        raise Rejected("notBefore: allowed: unix seconds")
    if retries is not None and not 0 <= retries <= 100:
        raise Rejected("retries: allowed: 0 to 100")
    if flow is not None:
        limits = (flow.parallelism, flow.rate, flow.period)
        if any(limit is not None and not 1 <= limit <= 1_000_000 for limit in limits) or limits[:2] == (None, None):
            raise Rejected("flowControl: needs parallelism or rate, whole numbers from 1; period in seconds")
        if not messages.TASK_ID.fullmatch(flow.key):
            raise Rejected(f"flowControl.key: allowed: {messages.ID_PATTERN}")
    given = FlowControl(flow.key, flow.parallelism, flow.rate, flow.period) if flow else None
    return Publishing(delay or None, options.not_before, 5 if retries is None else retries, given, traceparent)
