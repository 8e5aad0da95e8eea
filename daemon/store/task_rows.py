"""What the rows of a claim and of a result mean, and what a message and a result look like as rows. Plain functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from daemon.domain.errors import Code, Rejected, TaskError
from daemon.domain.events import Usage
from daemon.domain.messages import TaskMessage, WorkEntry, content_sha256, identity_of
from daemon.domain.queues import QueueSpec
from daemon.domain.states import TERMINAL, State
from daemon.ports import (
    AlreadyEnded,
    AlreadyRunning,
    Claimed,
    ClaimOutcome,
    Delivery,
    ResultDraft,
    StillRunning,
    StoredResult,
    TaskContext,
    TaskIdConflict,
)
from daemon.store.jsonb import storable, storable_text
from daemon.store.pool import Row

CONTEXT_BYTES_MAX: Final = 4 * 1024 * 1024  #: variables or images of one task; four times what a message may carry


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """One claim of a batch."""

    delivery: Delivery
    model_id: str

    @property
    def entry(self) -> WorkEntry:
        """The message; an entry that can't be read has nothing to claim."""
        if self.delivery.entry is None:
            raise ValueError(f"{self.delivery.entry_id} is poison: {self.delivery.poison}")
        return self.delivery.entry


def without_images(message: TaskMessage) -> TaskMessage:
    """The message as a row keeps it: what inline images hold lies in the blob store."""
    if not any(image.data for image in message.images or ()):
        return message
    bare = [msgspec.structs.replace(image, data=None) for image in message.images or ()]
    return msgspec.structs.replace(message, images=bare)


def task_columns(
    entry: WorkEntry, queue: str, entry_id: str, model_id: str | None, queues: Mapping[str, QueueSpec]
) -> dict[str, Any]:
    """One row of `tasks` as a claim inserts it."""
    m = entry.message
    identity, spec = identity_of(m), queues.get(queue)
    return {
        "task_id": m.task_id, "queue_id": queue, "entry_id": entry_id, "service_id": m.service_id,
        "user_id": m.user_id, "tier": m.tier or (spec.tier if spec else None), "model_id": model_id, "job_id": m.job_id,
        "refs": m.refs, "request_id": identity.request_id, "trace_id": identity.trace_id,
        "message": without_images(m), "body_sha256": entry.sha256, "accepted_at": entry.accepted_at / 1000,
        "wants_context": m.id_first,
    }  # fmt: skip


def storable_draft(draft: ResultDraft) -> ResultDraft:
    """`draft` as Postgres will hold it, hash included, so that what is announced is what a reader will find."""
    content, data = storable_text(draft.content), storable(draft.data)
    sha256 = draft.content_sha256 if content is draft.content else content_sha256(content)
    return replace(draft, content=content, data=data, content_sha256=sha256)


def claim_answer(request: ClaimRequest, row: Row) -> ClaimOutcome | None:
    """What one row of the claim means; None: the snapshot was older than the row that refused us, look again."""
    entry = request.entry
    if row["attempt"] is not None:
        context, error = _context(row) if entry.message.id_first else (None, None)
        return Claimed(row["attempt"], row["failures"], row["crashes"], context, row["created_at"], error)
    if row["old_state"] is None:
        return None
    if why := conflict_in(row, request.delivery.queue, entry):
        return TaskIdConflict(why)
    state = State(row["old_state"])
    if state in TERMINAL:
        code = Code(row["old_code"]) if row["old_code"] else None
        return AlreadyEnded(state, row["old_attempt"], code, stored_result(row) if row["id"] is not None else None)
    if state is State.RUNNING and not row["old_free"]:
        return StillRunning() if row["old_entry"] == request.delivery.entry_id else AlreadyRunning()
    return None


def conflict_in(row: Row, queue: str, entry: WorkEntry) -> str:
    """Why the task in `row` is another one than that of `entry`; "" when it is the same."""
    if row["old_queue"] != queue:
        return f"the id belongs to a task of queue {row['old_queue']}"
    return "" if row["old_sha256"] == entry.sha256 else "the id belongs to a task with another body"


def _context(row: Row) -> tuple[TaskContext | None, TaskError | None]:
    if row.get("context_failure"):
        return None, row["context_failure"]
    if not row["context_found"]:
        return None, Rejected(code=Code.CONTEXT_NOT_FOUND)
    try:
        variables = _decoded(row["variables"], dict[str, Any]) or {}
        images = _decoded(row["images"], list[dict[str, Any]]) or []
    except (msgspec.MsgspecError, ValueError) as error:
        # Types and paths only: msgspec's texts hold no values.
        return None, Rejected(code=Code.CONTEXT_NOT_FOUND, detail=f"task_context: {error}")
    return TaskContext(row["template_id"], variables, images), None


def _decoded(text: str | None, kind: Any) -> Any:
    if text is None:
        return None
    if len(text) > CONTEXT_BYTES_MAX:
        raise ValueError(f"{len(text)} characters, at most {CONTEXT_BYTES_MAX} are allowed")
    return msgspec.json.decode(text, type=kind | None)


def stored_result(row: Row) -> StoredResult:
    """The result in a row that holds the columns of `results`."""
    usage = msgspec.convert(row["usage"], Usage)
    answer = row["data"], row["content"], row["model_id"], usage, row["finish_reason"]
    return StoredResult(row["id"], row["content_sha256"], *answer)
