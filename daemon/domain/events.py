"""The events of a task, with their wire names: the code's single source of protocol 5.

`docs/protocol.md`, the JSON Schemas and the TypeScript types are generated from here. Everything is immutable.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Any, Final

import msgspec

from daemon.domain.errors import Code

RESULT_INLINE_BYTES_MAX: Final = 4096
DELTA_BYTES_MAX: Final = 1024
DELTA_INTERVAL_MS: Final = 50

_numbers: Final = itertools.count(1)


def nonce() -> str:
    """What makes a repeated append recognisable.

    Unique among all processes: random once for each, then counted. A stream makes twenty a second.
    """
    return f"{_process()}{next(_numbers):x}"


@cache
def _process() -> str:
    return secrets.token_hex(12)


os.register_at_fork(after_in_child=_process.cache_clear)  # a forked process is another one


class EventType(StrEnum):
    """The six kinds of event."""

    QUEUED = "queued"
    STARTED = "started"
    PROGRESS = "progress"
    TOKEN_BATCH = "token_batch"
    DONE = "done"
    ERROR = "error"


class Stage(StrEnum):
    """Where in the pipeline an event was born."""

    DELIVER = "deliver"
    QUEUE = "queue"
    GUARDS = "guards"
    LOAD = "load"
    EXECUTE = "execute"
    WRITE = "write"


class Reason(StrEnum):
    """Why a task waits."""

    QUEUE_PAUSED = "QUEUE_PAUSED"
    GUARD_USER = "GUARD_USER"
    GUARD_MODEL = "GUARD_MODEL"
    RATE_LIMITED = "RATE_LIMITED"
    BREAKER_OPEN = "BREAKER_OPEN"
    RETRY_AT = "RETRY_AT"


class Channel(StrEnum):
    """What a delta is: the answer, or the model thinking aloud."""

    TEXT = "text"
    REASONING = "reasoning"


class Usage(msgspec.Struct, frozen=True, rename="camel"):
    """Tokens of one attempt, cached in input and reasoning in output, and their price. None is unknown, never zero."""

    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: float | None = None


def total_usage(*usages: Usage | None) -> Usage | None:
    """The sum of what is known; None when nothing is."""
    known = [usage for usage in usages if usage is not None and usage != Usage()]
    counts = {name: [n for u in known if (n := getattr(u, name)) is not None] for name in Usage.__struct_fields__}
    return Usage(**{name: sum(found) for name, found in counts.items() if found}) if known else None


#: attempt of an `EventDraft` that takes whatever attempt the stream has seen last
CURRENT_ATTEMPT: Final = -1


@dataclass(frozen=True, slots=True)
class EventDraft:
    """An event before the append script gives it `seq` (and, for `CURRENT_ATTEMPT`, its `attempt`).

    `fields` holds only what its type adds (wire names); identity and time are added by `events.log`.
    `terminal` ends the stream: the script refuses everything after it.
    """

    type: EventType
    fields: Mapping[str, Any] = field(default_factory=dict)
    terminal: bool = False
    #: appended once, however often the append is repeated: the nonce of a batch is that of its first draft
    nonce: str = field(default_factory=nonce, compare=False)


def started(model_id: str) -> EventDraft:
    """An attempt begins; readers drop the text of lower attempts."""
    return EventDraft(EventType.STARTED, {"stage": Stage.EXECUTE, "modelId": model_id})


def progress(stage: Stage, message: str, *, reason: Reason | None = None, percent: float | None = None) -> EventDraft:
    """A stage changed, or why the task waits."""
    fields: dict[str, Any] = {"stage": stage, "message": message}
    if reason is not None:
        fields["reason"] = reason
    if percent is not None:
        fields["percent"] = percent
    return EventDraft(EventType.PROGRESS, fields)


def token_batch(delta: str, channel: Channel) -> EventDraft:
    """Coalesced text."""
    return EventDraft(EventType.TOKEN_BATCH, {"delta": delta, "channel": channel})


def error(
    stage: Stage,
    code: Code,
    message: str,
    *,
    retryable: bool,
    retry_at: float | None = None,
    usage: Usage | None = None,
) -> EventDraft:
    """`retryable`: another attempt follows, at `retry_at` (unix s) if known. Otherwise this is the terminal event."""
    fields: dict[str, Any] = {"stage": stage, "code": code, "message": message, "retryable": retryable}
    if retry_at is not None:
        fields["retryAt"] = round(retry_at, 3)
    if usage is not None:
        fields["usage"] = usage
    return EventDraft(EventType.ERROR, fields, terminal=not retryable)


def done(
    task_id: str, *, usage: Usage, model_id: str, content_sha256: str, result: Any, finish_reason: str | None = None
) -> EventDraft:
    """Terminal, after the row is committed. `result` only when its JSON is at most 4 KiB."""
    fields: dict[str, Any] = {
        "stage": Stage.WRITE, "resultRef": f"db:result:{task_id}", "usage": usage, "modelId": model_id,
        "contentSha256": content_sha256, "finishReason": finish_reason,
    }  # fmt: skip
    if result is not None and len(msgspec.json.encode(result)) <= RESULT_INLINE_BYTES_MAX:
        fields["result"] = result
    return EventDraft(EventType.DONE, fields, terminal=True)


class Event(msgspec.Struct, frozen=True, rename="camel"):
    """A stored event as a reader sees it; `data` has the wire names, `id` is the cursor."""

    id: str
    type: EventType
    data: dict[str, Any]

    @property
    def terminal(self) -> bool:
        """No event follows this one."""
        return self.type is EventType.DONE or (self.type is EventType.ERROR and not self.data.get("retryable", False))
