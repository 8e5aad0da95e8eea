"""Ends a task wherever it is, with exactly one terminal event.

A task that waits is ended here: row, event, images, then out of its queue, in the order of the law, so that a crash
between two of these is healed by whoever reads its entry. One that runs is stopped by its daemon, which is told at
once. Called by the gateway (a viewer, a producer) and by the command line (an operator).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec

from daemon.domain.errors import CODES, Code, DependencyAway
from daemon.domain.events import CURRENT_ATTEMPT, Stage, error
from daemon.domain.messages import TaskIdentity, TaskMessage, identity_of
from daemon.domain.states import TERMINAL, State
from daemon.events.cancel_notices import CancelRequests
from daemon.events.log import EventLog
from daemon.observability.logging import logger
from daemon.pipeline.model_request import references
from daemon.ports import Blobs, Clock
from daemon.store.records import TaskRecords
from daemon.store.tasks import PostgresLedger

_LOOK_S: Final = 0.05
_DROP_S: Final = 3.0  #: a store that is slow now is left to the sweep

_log = logger("cancellation")


@dataclass(frozen=True, slots=True)
class CancelOutcome:
    """What became of a cancel. `state`: the task's now; None: it ended unclaimed before, and only its events know how.

    `by_us`: this call ended it while it waited; `unclaimed`: nothing had claimed it yet. `notified`: a daemon that
    runs it was told to stop.
    """

    state: State | None
    by_us: bool = False
    unclaimed: bool = False
    notified: bool = False


@dataclass(frozen=True, slots=True)
class Cancellation:
    """Ends tasks on request; every call may be repeated."""

    cancels: CancelRequests
    records: TaskRecords
    ledger: PostgresLedger
    events: EventLog
    blobs: Blobs
    clock: Clock

    async def end(self, task_id: str, queued: TaskIdentity | None, wait_s: float) -> CancelOutcome:
        """The task's end, or its state after `wait_s` when whoever runs it has not stopped yet.

        `queued` is the task as its `queued` event or its place in a queue names it; None: neither is there (any more).
        Cancelled half-way, it is marked, and its daemon ends it with its next event. Raises `DependencyAway`.
        """
        marked = await self.cancels.mark(task_id)
        deadline, notified = self.clock.monotonic() + wait_s, False
        while True:
            found = await self.records.row(task_id)
            if found is not None and found[0].state in TERMINAL:
                return CancelOutcome(found[0].state, notified=notified)
            if found is None:
                if not marked:
                    return CancelOutcome(None)
                if queued is None:
                    return CancelOutcome(State.QUEUED)
                if await self._end_unclaimed(queued):
                    return CancelOutcome(State.CANCELLED, by_us=True, unclaimed=True)
            elif await self.records.cancel_waiting(task_id):
                row, message = found[0], None
                with suppress(msgspec.ValidationError):  # of a newer release: the sweep takes its images
                    message = row.entry().message
                await self._finish(TaskIdentity(task_id, row.queue_id, row.request_id, row.trace_id), message)
                return CancelOutcome(State.CANCELLED, by_us=True)
            elif not notified:
                await self.cancels.notify(task_id)
                notified = True
            if self.clock.monotonic() > deadline:
                return CancelOutcome(State.QUEUED if found is None else found[0].state, notified=notified)
            await asyncio.sleep(_LOOK_S)

    async def _end_unclaimed(self, queued: TaskIdentity) -> bool:
        """End a task that no daemon has claimed; False: it has just moved, look again."""
        found = await self.cancels.find(queued.queue_id, queued.task_id)
        if found is not None:
            entry, entry_id = found
            if not await self.ledger.end_unclaimed(entry, State.CANCELLED, Code.CANCELLED, entry_id):
                return False
            await self._finish(identity_of(entry.message), entry.message)
            return True
        if not await self.cancels.withdraw(queued.queue_id, queued.task_id):
            return False
        await self._append_cancelled(queued)  # promised, never delivered: its message will be a duplicate when it comes
        return True

    async def _finish(self, task: TaskIdentity, message: TaskMessage | None) -> None:
        await self._append_cancelled(task)
        if message is not None:
            await self._drop_images(message)
        await self.cancels.withdraw(task.queue_id, task.task_id)

    async def _drop_images(self, message: TaskMessage) -> None:
        try:
            async with asyncio.timeout(_DROP_S):
                await self.blobs.drop(references(message), message.user_id)
        except (DependencyAway, TimeoutError) as problem:
            _log.warning("blobs.cleanup_failed", task_id=message.task_id, why=str(problem) or type(problem).__name__)

    async def _append_cancelled(self, task: TaskIdentity) -> None:
        text = CODES[Code.CANCELLED].en
        await self.events.append(task, CURRENT_ATTEMPT, [error(Stage.QUEUE, Code.CANCELLED, text, retryable=False)])
