"""Which tasks run in a process of their own, and which one is convicted (docs/decisions/0009-ownership.md).

A crash ends all tasks of a process, so it convicts none of them. A task in two crashes runs in a child process, where
nothing else can be the cause: a crash there is its own.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from daemon.domain.errors import Code, LeaseLost, TaskError
from daemon.domain.events import Reason, Stage
from daemon.domain.states import State
from daemon.observability.logging import logger
from daemon.pipeline import attempt_events, failure, settlement
from daemon.pipeline.dependencies import Quarantined
from daemon.pipeline.execution import Execution
from daemon.pipeline.outcome import Isolated, Outcome, Snoozed
from daemon.ports import Transition

_log = logger(__name__)

#: how a snoozed entry says that it waits for a free place in quarantine
QUARANTINE_WAIT: Final = "QUARANTINE"
#: a child process imports, connects and takes its entry within this
START_S: Final = 60.0


def must_wait(x: Execution) -> bool:
    """Whether an entry that waits for quarantine still has to: known before permits are taken or a row is claimed."""
    quarantine = x.deps.quarantine
    return x.entry.parked == QUARANTINE_WAIT and quarantine is not None and not quarantine.has_slot


async def check_crashes(x: Execution) -> Outcome | None:
    """After the claim: None when the attempt is to run in this process."""
    deps, crashes, crashes_max = x.deps, x.claim.crashes, x.deps.lease.crashes_max
    if x.in_flight.crash_seen:
        return await _convict(x, "its process died in quarantine")
    if deps.in_quarantine or crashes < max(1, crashes_max - 1):
        return None
    if deps.quarantine is not None:
        if not deps.quarantine.has_slot:
            return await wait(x)
        child = await deps.quarantine.start(x.in_flight.delivery.queue, _life_s(x))
        if child is not None:
            return await _transfer(x, child)
    return await _convict(x, f"{crashes} crashes") if crashes >= crashes_max else None


async def wait(x: Execution) -> Outcome:
    """All places in quarantine are taken: wait for one outside, without a count of anything."""
    deps, entry = x.deps, x.entry
    if x.in_flight.attempt is not None:
        await _leave(x)
    elif x.cancelled is not None:
        return await failure.reject(x, x.cancelled)
    elif not await failure.release_claim(x):
        return await failure.leave_pending(x)
    delay_s = deps.retry.guard_s * (0.5 + deps.random() / 2)
    events = [] if entry.parked == QUARANTINE_WAIT else [attempt_events.waiting_event(Stage.QUEUE, Reason.RETRY_AT)]
    await settlement.snooze(x, events, delay_s, reason=QUARANTINE_WAIT)
    if deps.quarantine is not None:
        deps.quarantine.waits(x.in_flight.delivery)
    return Snoozed(Reason.RETRY_AT, delay_s)


async def _transfer(x: Execution, child: Quarantined) -> Outcome:
    """The entry is pending all the time, first to us, then to the child; the row is nobody's until it claims."""
    try:
        await _leave(x)
        await settlement.append_last(x, ())
        if not await x.until_available(partial(child.take, x.in_flight.delivery), interruptible=False):
            raise LeaseLost("the entry left us before quarantine")
    except BaseException:
        child.discard()
        raise
    x.in_flight.settled_entry()
    return Isolated()


async def _leave(x: Execution) -> None:
    if not await settlement.leave_running(x, Transition(State.QUEUED, None, "handed_back")):
        raise LeaseLost("the attempt is not ours any more")


async def _convict(x: Execution, why: str) -> Outcome:
    _log.error("task.convicted", task_id=x.task.task_id, crashes=x.claim.crashes, why=why)
    return await failure.give_up(x, TaskError(code=Code.WORKER_LOST, detail=why), stage=Stage.EXECUTE)


def _life_s(x: Execution) -> float:
    """No attempt takes longer, whatever models it asks and however long servers are away: past it the child hangs."""
    calls_s = len(x.plan.models) * (x.plan.timeouts.total_s + x.deps.lease.lease_s)
    return START_S + calls_s + 2 * x.deps.hold_result_s
