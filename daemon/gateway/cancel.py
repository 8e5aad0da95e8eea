"""`POST /api/tasks/{taskId}/cancel`: ends a task wherever it is, with exactly one terminal event.

A task that waits is ended here: row, event, then out of its queue, in the order of the law, so that a crash between
two of these is healed by whoever reads its entry. One that runs is stopped by its daemon, which is told at once.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import msgspec
from aiohttp import web

from daemon.contracts import (
    CURRENT_ATTEMPT,
    TASK_ID,
    TERMINAL,
    Stage,
    State,
    TaskIdentity,
    TaskMessage,
    error,
    identity_of,
)
from daemon.errors import CODES, Code, DependencyAway
from daemon.gateway.access import Access, address_of
from daemon.gateway.answers import json_answer, not_found
from daemon.gateway.finishing import Finishing
from daemon.gateway.results import ended_state
from daemon.logs import logger
from daemon.pipeline.load import references
from daemon.ports import Blobs, Clock
from daemon.store.audit import AuditLog
from daemon.store.records import TaskRecords
from daemon.store.tasks import PostgresLedger
from daemon.stream.cancel import Cancels
from daemon.stream.entries import START, Entry
from daemon.stream.events import Events
from daemon.stream.hub import Hub

PATIENCE_S: Final = 2.0  #: a call that runs is stopped within one second; so long the answer waits to say so
_LOOK_S: Final = 0.05
_DROP_S: Final = 3.0

_log = logger("gateway")


class _Queued(msgspec.Struct, rename="camel"):
    queue_id: str
    request_id: str = ""
    trace_id: str = ""


_queued: Final = msgspec.json.Decoder(_Queued).decode


class Cancel:
    """Ends tasks on request."""

    def __init__(
        self,
        *,
        cancels: Cancels,
        records: TaskRecords,
        ledger: PostgresLedger,
        events: Events,
        hub: Hub,
        access: Access,
        audit: AuditLog,
        clock: Clock,
        finishing: Finishing,
        blobs: Blobs,
    ) -> None:
        self._cancels = cancels
        self._records = records
        self._ledger = ledger
        self._events = events
        self._hub = hub
        self._access = access
        self._audit = audit
        self._clock = clock
        self._finishing = finishing
        self._blobs = blobs

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [web.post("/api/tasks/{taskId}/cancel", self.cancel)]

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """200 with the state in which it ended (`done` as well), 202 while it is still on its way to `cancelled`."""
        task_id = request.match_info["taskId"]
        caller = self._access.caller_or_viewer(request, task_id)
        if not TASK_ID.fullmatch(task_id):
            raise not_found()
        state = await self._finishing.of(self._end(task_id, known_only=caller is not None))
        role, ip = ("viewer" if caller is None else "api_key"), address_of(request)
        self._audit.note("task.cancel", task_id, actor=caller or "viewer", role=role, ip=ip, result=state)
        return json_answer(200 if state in TERMINAL else 202, {"taskId": task_id, "state": state})

    async def _end(self, task_id: str, *, known_only: bool) -> State:
        first, last, _ = await self._hub.look(task_id, START)
        queued = _identity(task_id, first)
        if known_only and queued is None and await self._records.row(task_id) is None:
            raise not_found()
        marked = await self._cancels.mark(task_id)
        deadline, told = self._clock.monotonic() + PATIENCE_S, False
        while True:
            found = await self._records.row(task_id)
            state = State.QUEUED if found is None else found[0].state
            if state in TERMINAL:
                return state
            if found is None:
                if not marked:  # it ended before anything claimed it: only its events know
                    return ended_state(last) if last is not None and last.terminal else State.FAILED
                if queued is None or await self._end_unclaimed(queued):
                    return State.QUEUED if queued is None else State.CANCELLED
            elif await self._records.cancel_waiting(task_id):
                row = found[0]
                await self._tell(TaskIdentity(task_id, row.queue_id, row.request_id, row.trace_id))
                with suppress(msgspec.ValidationError):  # of a newer release: the sweep takes its images
                    await self._drop_images(row.entry().message)
                await self._cancels.withdraw(row.queue_id, task_id)
                return State.CANCELLED
            elif not told:
                await self._cancels.notify(task_id)
                told = True
            if self._clock.monotonic() > deadline:
                return state
            await asyncio.sleep(_LOOK_S)

    async def _end_unclaimed(self, queued: TaskIdentity) -> bool:
        """End a task that no daemon has claimed; False: it has just moved, look again."""
        found = await self._cancels.find(queued.queue_id, queued.task_id)
        if found is not None:
            entry, entry_id = found
            if not await self._ledger.end_unclaimed(entry, State.CANCELLED, Code.CANCELLED, entry_id):
                return False
            await self._tell(identity_of(entry.message))
            await self._drop_images(entry.message)
            await self._cancels.withdraw(queued.queue_id, queued.task_id)
            return True
        if not await self._cancels.withdraw(queued.queue_id, queued.task_id):
            return False
        await self._tell(queued)  # promised, never delivered: its message will be a duplicate when it comes
        return True

    async def _drop_images(self, message: TaskMessage) -> None:
        try:
            async with asyncio.timeout(_DROP_S):
                await self._blobs.drop(references(message), message.user_id)
        except (DependencyAway, TimeoutError) as problem:
            _log.warning("blobs.left", task_id=message.task_id, why=str(problem) or type(problem).__name__)

    async def _tell(self, task: TaskIdentity) -> None:
        text = CODES[Code.CANCELLED].en
        await self._events.append(task, CURRENT_ATTEMPT, [error(Stage.QUEUE, Code.CANCELLED, text, retryable=False)])


def _identity(task_id: str, first: Entry | None) -> TaskIdentity | None:
    """The task as its first event names it; None: nobody has written one."""
    if first is None:
        return None
    try:
        queued = _queued(first.data)
    except msgspec.DecodeError:
        return None
    return TaskIdentity(task_id, queued.queue_id, queued.request_id, queued.trace_id)
