"""`POST /api/tasks/{taskId}/cancel`: who may cancel, what is answered, what is audited.

How a task is ended is `daemon.cancellation`'s.
"""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web

from daemon.cancellation import Cancellation
from daemon.domain.messages import TASK_ID, TaskIdentity
from daemon.domain.states import TERMINAL, State
from daemon.events.fan_out import FanOut
from daemon.events.stored_event import START, StoredEvent
from daemon.gateway.access import Access, address_of
from daemon.gateway.responses import json_answer, not_found
from daemon.gateway.results import ended_state
from daemon.gateway.shielded_tasks import ShieldedTasks
from daemon.store.audit import AuditLog
from daemon.store.records import TaskRecords

CANCEL_WAIT_S: Final = 2.0  #: a call that runs is stopped within one second; so long the answer waits to say so


class _Queued(msgspec.Struct, rename="camel"):
    queue_id: str
    request_id: str = ""
    trace_id: str = ""


_queued: Final = msgspec.json.Decoder(_Queued).decode


class Cancel:
    """Ends tasks on request."""

    def __init__(
        self, *, cancellation: Cancellation, records: TaskRecords, fan_out: FanOut, access: Access, audit: AuditLog,
        shielded: ShieldedTasks,
    ) -> None:  # fmt: skip
        self._cancellation = cancellation
        self._records = records
        self._fan_out = fan_out
        self._access = access
        self._audit = audit
        self._shielded = shielded

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [web.post("/api/tasks/{taskId}/cancel", self.cancel)]

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """200 with the state in which it ended (`done` as well), 202 while it is still on its way to `cancelled`."""
        task_id = request.match_info["taskId"]
        caller = self._access.caller_or_viewer(request, task_id)
        if not TASK_ID.fullmatch(task_id):
            raise not_found()
        state = await self._shielded.run(self._end(task_id, known_only=caller is not None))
        role, ip = ("viewer" if caller is None else "api_key"), address_of(request)
        self._audit.note("task.cancel", task_id, actor=caller or "viewer", role=role, ip=ip, result=state)
        return json_answer(200 if state in TERMINAL else 202, {"taskId": task_id, "state": state})

    async def _end(self, task_id: str, *, known_only: bool) -> State:
        first, last, _ = await self._fan_out.look(task_id, START)
        queued = _identity(task_id, first)
        if known_only and queued is None and await self._records.row(task_id) is None:
            raise not_found()
        state = (await self._cancellation.end(task_id, queued, CANCEL_WAIT_S)).state
        if state is not None:
            return state
        return ended_state(last) if last is not None and last.terminal else State.FAILED


def _identity(task_id: str, first: StoredEvent | None) -> TaskIdentity | None:
    """The task as its first event names it; None: nobody has written one."""
    if first is None:
        return None
    try:
        queued = _queued(first.data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return TaskIdentity(task_id, queued.queue_id, queued.request_id, queued.trace_id)
