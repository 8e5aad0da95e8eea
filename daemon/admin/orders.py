"""What an operator orders for one task: end it, or run it again. Each order is audited and may be repeated.

The order of the law holds here too: row first, then the terminal event, then out of the queue; a crash in between is
healed by whoever reads the entry.
"""

from __future__ import annotations

import asyncio
import os
import pwd
from dataclasses import dataclass
from typing import Final

from daemon import keys
from daemon.admin.connections import Connections
from daemon.admin.replay import REPLAYABLE, replay
from daemon.admin.task_facts import Place, locate
from daemon.config import Settings
from daemon.contracts import CURRENT_ATTEMPT, TERMINAL, Stage, State, TaskIdentity, error, identity_of
from daemon.errors import CODES, Code
from daemon.store.audit import AuditLog
from daemon.store.records import TaskRow
from daemon.store.tasks import PostgresLedger
from daemon.stream.cancel import Cancels
from daemon.stream.connection import load_script
from daemon.stream.events import Events

PATIENCE_S: Final = 5.0  #: a call that runs is stopped within a second; so long the answer waits to say so
_LOOK_S: Final = 0.05
UNKNOWN: Final = "neither Redis nor Postgres knows it"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of the order."""

    task_id: str
    good: bool
    state: str  #: of the task, as far as it is known
    text: str


async def cancel(settings: Settings, task_id: str, reason: str) -> Answer:
    """End a task that waits; stop one that runs, at once if its daemon hears the notice."""
    async with Connections(settings) as at:
        await at.require_ours()
        answer = await _cancel(at, task_id)
        await _audit(at, "task.cancel", answer, reason)
        return answer


async def _cancel(at: Connections, task_id: str) -> Answer:
    cancels = Cancels(at.scripts, at.settings.events, at.settings.queues)
    ledger = PostgresLedger(at.pool, {q.name: q.tier for q in at.book.queues.values()})
    place = await locate(at, task_id, None)
    if place is None and await at.records.row(task_id) is None:
        return Answer(task_id, good=False, state="unknown", text=UNKNOWN)
    await cancels.mark(task_id)
    deadline, told = at.clock.monotonic() + PATIENCE_S, False
    while True:
        found = await at.records.row(task_id)
        if found is not None and found[0].state in TERMINAL:
            return _found_ended(found[0], told=told)
        if found is None and place is not None:
            if await _end_unclaimed(at, cancels, ledger, place, task_id):
                return Answer(task_id, good=True, state=State.CANCELLED, text="cancelled before it started")
        elif await at.records.cancel_waiting(task_id):
            row = found[0] if found else None
            if row is not None:
                await _conclude(at, cancels, TaskIdentity(task_id, row.queue_id, row.request_id, row.trace_id))
            return Answer(task_id, good=True, state=State.CANCELLED, text="cancelled while it waited")
        elif not told:
            await cancels.notify(task_id)
            told = True
        if at.clock.monotonic() > deadline:
            return Answer(task_id, good=True, state=State.RUNNING, text="asked; it ends at its next event")
        await asyncio.sleep(_LOOK_S)


def _found_ended(row: TaskRow, *, told: bool) -> Answer:
    if row.state is State.CANCELLED:
        return Answer(row.task_id, good=True, state=row.state, text="cancelled" if told else "was cancelled before")
    return Answer(row.task_id, good=False, state=row.state, text=f"has ended as {row.state}; nothing to cancel")


async def _end_unclaimed(at: Connections, cancels: Cancels, ledger: PostgresLedger, place: Place, task_id: str) -> bool:
    """End a task that no daemon has claimed; False: it has just moved, look again."""
    found = await cancels.find(place.queue, task_id)
    if found is not None:
        entry, entry_id = found
        if not await ledger.end_unclaimed(entry, State.CANCELLED, Code.CANCELLED, entry_id):
            return False
        await _conclude(at, cancels, identity_of(entry.message))
        return True
    if not await cancels.withdraw(place.queue, task_id):
        return False
    await _tell(at, TaskIdentity(task_id, place.queue, "", ""))
    return True


async def _conclude(at: Connections, cancels: Cancels, task: TaskIdentity) -> None:
    await _tell(at, task)
    await cancels.withdraw(task.queue_id, task.task_id)


async def _tell(at: Connections, task: TaskIdentity) -> None:
    draft = error(Stage.QUEUE, Code.CANCELLED, CODES[Code.CANCELLED].en, retryable=False)
    await Events(at.scripts, at.settings.events, at.clock).append(task, CURRENT_ATTEMPT, [draft])


async def retry(settings: Settings, task_id: str, reason: str) -> Answer:
    """Run a delayed task now; start a failed or expired one anew (its fence goes on, its events begin again)."""
    async with Connections(settings) as at:
        await at.require_ours()
        answer = await _retry(at, task_id, reason)
        if answer.state != "replayed":  # a replay is audited with its row, in one statement
            await _audit(at, "task.retry", answer, reason)
        return answer


async def _retry(at: Connections, task_id: str, reason: str) -> Answer:
    place = await locate(at, task_id, None)
    if place is not None and place.due_at is not None and await _hasten(at, place.queue, task_id):
        return Answer(task_id, good=True, state="ready", text=f"no longer delayed: in :ready of {place.queue}")
    found = await at.records.row(task_id)
    if found is None:
        text = UNKNOWN if place is None else "it has not been started yet; `tasks explain` says what it waits for"
        return Answer(task_id, good=False, state="unknown" if place is None else State.QUEUED, text=text)
    row = found[0]
    if row.state not in REPLAYABLE:
        return Answer(task_id, good=False, state=row.state, text=f"is {row.state}; only failed and expired start anew")
    anew = await replay(at, row, actor(), reason or "cli")
    if anew is None:
        return Answer(task_id, good=False, state="unknown", text="it changed its state just now; look again")
    return Answer(task_id, good=True, state="replayed", text=f"starts anew: in :ready of {anew.queue_id}")


async def _hasten(at: Connections, queue: str, task_id: str) -> bool:
    names = keys.queue_keys(queue)
    moved = await at.scripts.one(load_script("hasten"), (names.retry, names.held, names.ready), (task_id,))
    return int(moved) == 1


async def _audit(at: Connections, action: str, answer: Answer, reason: str) -> None:
    log = AuditLog(at.pool, at.clock)
    log.note(action, answer.task_id, actor=actor(), role="operator", result=answer.state, params={"reason": reason})
    await log.flush()


def actor() -> str:
    """Who sits at this terminal, as the system knows it."""
    try:
        return f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:  # a container's user without a name
        return f"cli:{os.getuid()}"
