"""Rows of tasks that ended with `done` and that Postgres has lost: written back from what their events tell.

A commit comes before its `done`, so a `done` without a row means that Postgres failed over to a server without the
commit. Events live on for an hour after the end. Where the text does not hash to `contentSha256` the row says
RESULT_LOST. A row that somebody deletes on purpose must lose its events first.
"""

from __future__ import annotations

import msgspec

from daemon.domain.errors import Code
from daemon.domain.events import EventType
from daemon.domain.messages import TaskMessage
from daemon.events.log import EventLog
from daemon.observability.logging import logger
from daemon.pipeline.rebuilt_result import rebuild_result
from daemon.ports import StoredResult
from daemon.store.records import TaskRecords, TaskRow

_log = logger("gateway")


class LostRows:
    """Writes rows back; every call may be repeated."""

    def __init__(self, records: TaskRecords, events: EventLog) -> None:
        self._records = records
        self._events = events

    async def restore(self, task_id: str) -> tuple[TaskRow, StoredResult | None] | None:
        """The row of a task whose events end with `done`; None: they do not, or too little was noted beside them.

        Raises `DependencyAway`.
        """
        ending, origin = await self._events.ending(task_id), await self._events.origin(task_id)
        first = next(iter(await self._events.read(task_id, count=1)), None)
        if ending is None or ending[0].type is not EventType.DONE or origin is None or first is None:
            return None
        done, queue = ending[0].data, str(first.data.get("queueId", ""))
        draft = rebuild_result(*ending)
        message = TaskMessage(
            task_id=task_id, queue_id=queue, service_id=origin.service_id, user_id=origin.user_id, variables={}
        )
        row = {
            "task_id": task_id, "queue_id": queue, "entry_id": origin.entry_id, "service_id": origin.service_id,
            "user_id": origin.user_id, "tier": origin.tier, "model_id": done["modelId"], "attempt": done["attempt"],
            "request_id": done["requestId"], "trace_id": done["traceId"], "message": msgspec.to_builtins(message),
            "body_sha256": origin.sha256, "error_code": None if draft else Code.RESULT_LOST, "usage": done["usage"],
            "created_at": first.data["timestamp"], "finished_at": done["timestamp"],
            "content": draft.content if draft else None, "data": draft.data if draft else None,
            "content_sha256": done["contentSha256"], "finish_reason": done.get("finishReason"),
        }  # fmt: skip
        await self._records.write_back(row)
        _log.warning("task.written_back", task_id=task_id, attempt=done["attempt"], result=draft is not None)
        return await self._records.row(task_id)
