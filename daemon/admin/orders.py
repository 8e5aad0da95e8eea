"""What an operator orders for one task (end it, run it again) or one model. Each order is audited and may be repeated.

The order of the law holds here too: row first, then the terminal event, then out of the queue; a crash in between is
healed by whoever reads the entry.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemon.admin.connections import Connections
from daemon.admin.replay import REPLAYABLE, replay
from daemon.admin.status import ConsumerState
from daemon.admin.task_facts import locate
from daemon.blobs.by_scheme import BlobsByScheme
from daemon.blobs.disk import DiskBlobs
from daemon.blobs.magic import picture
from daemon.blobs.redis import RedisBlobs
from daemon.cancellation import Cancellation
from daemon.config import Settings
from daemon.domain.messages import TaskIdentity
from daemon.domain.states import TERMINAL, State
from daemon.events.cancel_notices import CancelRequests
from daemon.events.log import EventLog
from daemon.limiter.models import ModelStates
from daemon.ports import Blobs
from daemon.queues.streams import WorkStreams
from daemon.store.audit import AuditLog
from daemon.store.tasks import PostgresLedger

CANCEL_WAIT_S: Final = 5.0  #: a call that runs is stopped within a second; so long the answer waits to say so
UNKNOWN: Final = "neither Redis nor Postgres knows it"


@dataclass(frozen=True, slots=True)
class ActionResult:
    """What became of the order."""

    task_id: str
    good: bool
    state: str  #: of the task, as far as it is known
    text: str


async def cancel(settings: Settings, task_id: str, reason: str) -> ActionResult:
    """End a task that waits; stop one that runs, at once if its daemon hears the notice."""
    async with Connections(settings) as at:
        await at.require_ours()
        answer = await _cancel(at, task_id)
        await _audit(at, "task.cancel", answer, reason)
        return answer


async def _cancel(at: Connections, task_id: str) -> ActionResult:
    location = await locate(at, task_id, None)
    if location is None and await at.records.row(task_id) is None:
        return ActionResult(task_id, good=False, state="unknown", text=UNKNOWN)
    queued = None if location is None else TaskIdentity(task_id, location.queue, "", "")
    ended = await _cancellation(at).end(task_id, queued, CANCEL_WAIT_S)
    if ended.by_us:
        when = "before it started" if ended.unclaimed else "while it waited"
        return ActionResult(task_id, good=True, state=State.CANCELLED, text=f"cancelled {when}")
    if ended.state is State.CANCELLED:
        return ActionResult(
            task_id, good=True, state=ended.state, text="cancelled" if ended.notified else "was cancelled before"
        )
    if ended.state is None or ended.state in TERMINAL:
        state = ended.state or "ended"
        return ActionResult(task_id, good=False, state=state, text=f"has ended as {state}; nothing to cancel")
    return ActionResult(task_id, good=True, state=ended.state, text="asked; it ends at its next event")


def blobs_here(at: Connections) -> BlobsByScheme:
    """Redis and this host's disk. What lies on another host's disk, or in a bucket, is left to the sweep."""
    stores: dict[str, Blobs] = {"redis": RedisBlobs(at.redis, picture)}
    if Path(at.settings.blobs.dir).is_dir():
        stores["disk"] = stores["file"] = DiskBlobs(at.settings.blobs, at.clock)
    return BlobsByScheme(stores)


def _cancellation(at: Connections) -> Cancellation:
    s = at.settings
    return Cancellation(
        cancels=CancelRequests(at.scripts, s.events, s.queues), records=at.records,
        ledger=PostgresLedger(at.pool, lambda: at.catalog.queues), events=EventLog(at.scripts, s.events, at.clock),
        blobs=blobs_here(at), clock=at.clock,
    )  # fmt: skip


async def retry(settings: Settings, task_id: str, reason: str) -> ActionResult:
    """Run a delayed task now; start a failed or expired one anew (its fence goes on, its events begin again)."""
    async with Connections(settings) as at:
        await at.require_ours()
        answer = await _retry(at, task_id, reason)
        if answer.state != "replayed":  # a replay is audited with its row, in one statement
            await _audit(at, "task.retry", answer, reason)
        return answer


async def _retry(at: Connections, task_id: str, reason: str) -> ActionResult:
    location = await locate(at, task_id, None)
    if location is not None and location.due_at is not None and await _work(at).hasten(location.queue, task_id):
        return ActionResult(task_id, good=True, state="ready", text=f"no longer delayed: in :ready of {location.queue}")
    found = await at.records.row(task_id)
    if found is None:
        text = UNKNOWN if location is None else "it has not been started yet; `tasks explain` says what it waits for"
        return ActionResult(task_id, good=False, state="unknown" if location is None else State.QUEUED, text=text)
    row = found[0]
    if row.state not in REPLAYABLE:
        return ActionResult(
            task_id, good=False, state=row.state, text=f"is {row.state}; only failed and expired start anew"
        )
    anew = await replay(at, row, actor(), reason or "cli")
    if anew is None:
        return ActionResult(task_id, good=False, state="unknown", text="it changed its state just now; look again")
    return ActionResult(task_id, good=True, state="replayed", text=f"starts anew: in :ready of {anew.queue_id}")


def _work(at: Connections) -> WorkStreams:
    return WorkStreams(at.scripts, at.settings.queues, "admin")


async def order_model(
    at: Connections, model: str, action: str, reason: str, order: Callable[[ModelStates], Awaitable[None]]
) -> bool:
    """Carry out an order for a model, in all processes at once; False when Postgres is away and it is not audited."""
    await order(ModelStates(at.scripts))
    if at.no_store:
        return False
    log = AuditLog(at.pool, at.clock)
    log.note(action, model, actor=actor(), role="operator", result="done", params={"reason": reason})
    await log.flush()
    return True


async def delete_consumers(at: Connections, dead: Iterable[ConsumerState]) -> list[ConsumerState]:
    """Delete consumers that lapsed with nothing pending; those that were deleted. What is pending never goes."""
    work, deleted = _work(at), []
    for consumer in dead:
        if await work.delete_consumer(consumer.queue, consumer.name):
            await work.deregister([f"{consumer.queue}/{consumer.name}"])
            deleted.append(consumer)
    return deleted


async def _audit(at: Connections, action: str, answer: ActionResult, reason: str) -> None:
    log = AuditLog(at.pool, at.clock)
    log.note(action, answer.task_id, actor=actor(), role="operator", result=answer.state, params={"reason": reason})
    await log.flush()


def actor() -> str:
    """Who sits at this terminal, as the system knows it."""
    try:
        return f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:  # a container's user without a name
        return f"cli:{os.getuid()}"
