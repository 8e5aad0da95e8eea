"""The six events as types: what a reader of `task:{id}:events` finds in `data`, field by field.

Writers build events with the functions in `events` (fast, no copies); this file declares their form once for JSON
Schema, TypeScript and the documentation, and a test holds the builders to it. Never used on the task path.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from daemon.domain.errors import Code
from daemon.domain.events import (
    DELTA_BYTES_MAX,
    DELTA_INTERVAL_MS,
    RESULT_INLINE_BYTES_MAX,
    Channel,
    Reason,
    Stage,
    Usage,
)
from daemon.domain.messages import ID_PATTERN
from daemon.domain.model_io import FinishReason


class _Event(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    kw_only=True,
    rename="camel",
    tag_field="type",
):
    """What every event carries beside its `type`."""

    v: Annotated[Literal[1], Meta(description="contract version")]
    task_id: Annotated[str, Meta(pattern=ID_PATTERN, description="the task")]
    attempt: Annotated[int, Meta(ge=0, description="the last attempt the stream has seen; 0 before the first claim")]
    seq: Annotated[int, Meta(ge=0, description="counts from 1 in each attempt; 0 only for `queued`")]
    request_id: Annotated[str, Meta(description="as sent with the task, or made up when it was accepted")]
    trace_id: Annotated[str, Meta(description="as sent with the task, or made up when it was accepted")]
    timestamp: Annotated[
        float, Meta(ge=0, description="unix seconds at the writer; the stream id is the order, not this")
    ]


class QueuedEvent(_Event, frozen=True, tag="queued"):
    """The task is accepted. Always first, exactly once, with attempt 0 and seq 0."""

    queue_id: Annotated[str, Meta(description="the queue it waits in")]
    position: Annotated[int | None, Meta(description="its place in the queue, if known")] = None


class StartedEvent(_Event, frozen=True, tag="started"):
    """An attempt begins. Drop the text of lower attempts: this attempt writes the answer from its first word."""

    stage: Literal["execute"]
    model_id: Annotated[str, Meta(description="the model that answers, as the services file names it")]


class ProgressEvent(_Event, frozen=True, tag="progress"):
    """The stage changed, or this is why the task waits."""

    stage: Stage
    message: Annotated[str, Meta(description="for users; no prompt, no vendor text")]
    reason: Annotated[Reason | None, Meta(description="present while the task waits")] = None
    percent: Annotated[float | None, Meta(description="0 to 100, if known")] = None


class TokenBatchEvent(_Event, frozen=True, tag="token_batch"):
    """Text as the model writes it, in stream queues only. Append `delta` to the text of its channel."""

    delta: Annotated[
        str, Meta(description=f"collected for {DELTA_INTERVAL_MS} ms or {DELTA_BYTES_MAX} bytes, whichever is first")
    ]
    channel: Annotated[Channel, Meta(description="`text` is the answer; `reasoning` is the model thinking aloud")]


class DoneEvent(_Event, frozen=True, tag="done"):
    """Terminal. The result is committed before this is written, so reading it by `resultRef` succeeds."""

    stage: Literal["write"]
    result_ref: Annotated[
        str, Meta(pattern=ID_PATTERN.replace("^", "^db:result:"), description="`db:result:` and the task id")
    ]
    usage: Usage
    model_id: Annotated[str, Meta(description="the model that answered; a fallback may differ from `started`")]
    content_sha256: Annotated[
        str,
        Meta(pattern=r"^[0-9a-f]{64}$", description="over the UTF-8 of the raw answer text; equals the row's"),
    ]
    finish_reason: Annotated[
        FinishReason | None,
        Meta(description="`length`: cut at the model's or the service's limit; null: none, or an unknown one"),
    ]
    result: Annotated[
        Any, Meta(description=f"the answer itself when its JSON is at most {RESULT_INLINE_BYTES_MAX} bytes")
    ] = None


class ErrorEvent(_Event, frozen=True, tag="error"):
    """`retryable: true`: another attempt follows. `false`: terminal."""

    stage: Annotated[Stage, Meta(description="where it happened")]
    code: Annotated[Code, Meta(description="stable; the table of error codes says what each means")]
    message: Annotated[str, Meta(description="for users")]
    retryable: Annotated[bool, Meta(description="whether another attempt follows")]
    retry_at: Annotated[float | None, Meta(description="unix seconds of the next attempt, if one is scheduled")] = None
    usage: Annotated[Usage | None, Meta(description="in a terminal one: of all attempts, as far as known")] = None


WorkerEvent = QueuedEvent | StartedEvent | ProgressEvent | TokenBatchEvent | DoneEvent | ErrorEvent
EVENTS: Final = (QueuedEvent, StartedEvent, ProgressEvent, TokenBatchEvent, DoneEvent, ErrorEvent)
