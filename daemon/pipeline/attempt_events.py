"""The events an attempt ends with. Plain functions: outcomes in, drafts out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from daemon.domain import events
from daemon.domain.errors import CODES, Code, TaskError
from daemon.domain.events import EventDraft, Reason, Stage, Usage
from daemon.domain.states import State
from daemon.ports import AlreadyEnded, StoredResult

#: why a task waits, for users
WAITING: Final[Mapping[Reason, str]] = {
    Reason.GUARD_USER: "waiting for another task of yours to finish",
    Reason.GUARD_MODEL: "waiting for a free place at the model",
    Reason.RATE_LIMITED: "the model is busy; waiting for it",
    Reason.BREAKER_OPEN: "the model has trouble; waiting for it to recover",
    Reason.QUEUE_PAUSED: "the queue is paused",
    Reason.RETRY_AT: "trying again soon",
}


def done_event(task_id: str, stored: StoredResult) -> EventDraft:
    """Terminal: the row is committed, and reading it succeeds."""
    return events.done(
        task_id,
        usage=stored.usage,
        model_id=stored.model_id,
        content_sha256=stored.content_sha256,
        finish_reason=stored.finish_reason,
        result=stored.content if stored.data is None else stored.data,
    )


def retry_events(error: TaskError, stage: Stage, retry_at: float) -> list[EventDraft]:
    """The attempt failed and another follows at `retry_at` (unix s)."""
    return [
        events.error(stage, error.code, error.message, retryable=True, retry_at=retry_at),
        events.progress(Stage.QUEUE, WAITING[Reason.RETRY_AT], reason=Reason.RETRY_AT),
    ]


def waiting_event(stage: Stage, reason: Reason) -> EventDraft:
    """Why the task waits."""
    return events.progress(stage, WAITING[reason], reason=reason)


def fallback_event(model_id: str) -> EventDraft:
    """The model closed before its first word, and another one is asked in the same attempt."""
    return events.progress(Stage.EXECUTE, f"the model is busy; asking {model_id} instead")


def requeued_event() -> EventDraft:
    """The attempt was interrupted, not failed; another daemon takes it."""
    return events.progress(Stage.QUEUE, "interrupted; starting again on another worker")


def final_event(stage: Stage, code: Code, message: str = "", usage: Usage | None = None) -> EventDraft:
    """Terminal: no attempt follows. `usage` of all attempts."""
    return events.error(stage, code, message or CODES[code].en, retryable=False, usage=usage)


def ended_event(task_id: str, ended: AlreadyEnded) -> EventDraft:
    """The terminal event of a row that ended before, made again from what Postgres holds."""
    if ended.state is State.DONE and ended.result is not None:
        return done_event(task_id, ended.result)
    return final_event(Stage.EXECUTE, ended.error_code or Code.INTERNAL)
