"""What is known of a task, and of the queues: `GET /api/tasks/{taskId}`, `GET /api/queues`.

The ledger first; what it does not know yet (nothing has claimed it) Redis may. Times are unix seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

from daemon.domain.errors import CODES, Code
from daemon.domain.events import EventType, Reason
from daemon.domain.messages import TASK_ID
from daemon.domain.queues import QueueSpec
from daemon.domain.states import TERMINAL, State
from daemon.events.fan_out import FanOut
from daemon.events.stored_event import StoredEvent
from daemon.gateway.access import Access
from daemon.gateway.lost_rows import LostRows
from daemon.gateway.responses import json_answer, not_found
from daemon.limiter.waiting import WaitReader, WaitStatus
from daemon.ports import Clock, StoredResult
from daemon.store.records import TaskRecords, TaskRow

_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode
_NOTHING: Final = {
    "queueId": None, "state": State.QUEUED, "attempt": 0, "createdAt": None, "startedAt": None, "finishedAt": None,
    "result": None, "finishReason": None, "usage": None, "error": None, "waiting": None,
}  # fmt: skip


class Results:
    """Answers from the ledger and from Redis."""

    def __init__(
        self,
        *,
        records: TaskRecords,
        lost_rows: LostRows,
        fan_out: FanOut,
        waits: WaitReader,
        queues: Callable[[], Mapping[str, QueueSpec]],
        access: Access,
        clock: Clock,
    ) -> None:
        self._records = records
        self._lost_rows = lost_rows
        self._fan_out = fan_out
        self._waits = waits
        self._queues = queues
        self._access = access
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [web.get("/api/tasks/{taskId}", self.task), web.get("/api/queues", self.queues)]

    async def task(self, request: web.Request) -> web.StreamResponse:
        """State, result and why it waits. What nobody knows yet is a task that waits to a token, and 404 to a key."""
        task_id = request.match_info["taskId"]
        caller = self._access.caller_or_viewer(request, task_id)
        if not TASK_ID.fullmatch(task_id):
            raise not_found()
        view = await self._describe(task_id)
        if view is None and caller is not None:
            raise not_found()
        return json_answer(200, {"taskId": task_id, **_NOTHING, **(view or {"waiting": _waiting(WaitStatus())})})

    async def queues(self, request: web.Request) -> web.StreamResponse:
        """For each queue: how many wait to start, how many may, whether it is paused."""
        self._access.caller(request)
        specs = self._queues()
        sizes = await self._waits.queues(list(specs))
        listed = [
            {
                "queueId": name,
                "waiting": s.waiting,
                "limit": specs[name].max_size if s.limit is None else s.limit,  # 0: nothing is accepted
                "paused": s.paused,
            }
            for name, s in sizes.items()
        ]
        return json_answer(200, {"queues": listed})

    async def _describe(self, task_id: str) -> dict[str, Any] | None:
        found = await self._records.row(task_id)
        if found is not None:
            view = _of_row(*found)
            if view["state"] in {State.QUEUED, State.RETRYING}:
                view["waiting"] = await self._why(view["queueId"], task_id)
            return view
        first, last, _ = await self._fan_out.look(task_id, "0-0")
        if first is None or last is None:
            return None
        if last.type == EventType.DONE and (restored := await self._lost_rows.restore(task_id)) is not None:
            return _of_row(*restored)
        view = _of_events(first, last)
        if not last.terminal and isinstance(view["queueId"], str):
            view["waiting"] = await self._why(view["queueId"], task_id)
        return view

    async def _why(self, queue_id: str, task_id: str) -> dict[str, Any]:
        return _waiting(await self._waits.of(queue_id, task_id, self._clock.time()))


def _of_row(row: TaskRow, result: StoredResult | None) -> dict[str, Any]:
    view: dict[str, Any] = {
        "queueId": row.queue_id, "state": row.state, "attempt": row.attempt, "createdAt": row.created_at,
        "startedAt": row.started_at, "finishedAt": row.finished_at,
    }  # fmt: skip
    if result is not None:
        view["result"] = result.content if result.data is None else result.data
        view["finishReason"], view["usage"] = result.finish_reason, result.usage
    if row.state in TERMINAL and (row.state is not State.DONE or result is None):
        view["error"] = _error(row.error_code or Code.INTERNAL)
    return view


def _of_events(first: StoredEvent, last: StoredEvent) -> dict[str, Any]:
    """A task that only its event stream knows: it waits, or it ended before anything claimed it."""
    begun, said = _decode(first.data), _decode(last.data)
    view: dict[str, Any] = {"queueId": begun.get("queueId"), "createdAt": begun.get("timestamp")}
    if last.terminal:
        view["state"], view["finishedAt"] = ended_state(last), said.get("timestamp")
        view["error"] = _error(Code.RESULT_LOST if view["state"] is State.DONE else _code(said))
    return view


def ended_state(last: StoredEvent) -> State:
    """The state that a terminal event stands for."""
    if last.type == EventType.DONE:
        return State.DONE
    ends = {Code.CANCELLED: State.CANCELLED, Code.EXPIRED: State.EXPIRED}
    return ends.get(_code(_decode(last.data)), State.FAILED)


def _code(said: Mapping[str, Any]) -> Code:
    code = str(said.get("code"))
    return Code(code) if code in Code.__members__ else Code.INTERNAL


def _error(code: Code) -> dict[str, Any]:
    return {"code": code, "message": CODES[code].en}


def _waiting(waiting: WaitStatus) -> dict[str, Any]:
    reason = waiting.reason if waiting.reason in Reason.__members__ else None
    return {"reason": reason, "position": waiting.position, "etaSeconds": waiting.eta_s}
