"""Every way in which a delivery leaves this process without a result: again, later, elsewhere or never.

Decides with the plain functions of `retry_policy` and `permit_policy`; `settlement` carries it out. The row leaves
`running` before the entry moves, so that no row stays `running` for an entry that another process may read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

from daemon.domain.errors import Code, DependencyAway, LeaseLost, ProviderError, RedisFull, TaskError
from daemon.domain.events import EventDraft, EventType, Reason, Stage
from daemon.domain.permits import NoModelAvailable, WaitForPermit
from daemon.domain.states import State
from daemon.observability.logging import logger
from daemon.pipeline import attempt_events, settlement
from daemon.pipeline.execution import Execution, Phase
from daemon.pipeline.outcome import (
    Abandoned,
    CompletedAgain,
    Dropped,
    Failed,
    Fenced,
    Outcome,
    Refused,
    Requeued,
    Retrying,
    Snoozed,
)
from daemon.pipeline.permit_policy import snooze_for_permit, snooze_until_available
from daemon.pipeline.rebuilt_result import rebuild_result
from daemon.pipeline.retry_policy import GiveUp, Retry, WaitForModel, decide, final_code
from daemon.ports import Appended, Transition

_log = logger(__name__)

#: requeueing happens in a hurry, since a lease may be over: longer, and the entry is left to be found by its lease
_REQUEUE_S: Final = 5.0


def terminal_state(code: Code) -> State:
    """The state of a task that ends with `code`."""
    return {Code.EXPIRED: State.EXPIRED, Code.CANCELLED: State.CANCELLED}.get(code, State.FAILED)


# --- an attempt that failed ---------------------------------------------------------------------------------------


async def step_raised(x: Execution, error: Exception) -> Outcome:
    """The end of a delivery whose step raised `error`; raises it again where the entry is to stay pending."""
    bug = not isinstance(error, TaskError)
    known = error if isinstance(error, TaskError) else TaskError(detail=type(error).__name__)
    if x.phase is Phase.RUNNING:
        if bug:
            _log.exception("attempt.crashed", error=type(error).__name__, task_id=x.task.task_id)
        return await fail_attempt(x, known)
    # With an attempt, Postgres counts a crash when the entry is found again. Without one nothing would count it, so a
    # bug ends the task at its second delivery.
    d = x.in_flight.delivery
    if x.phase is not Phase.UNCLAIMED or d.entry is None or (bug and not d.redelivered):
        raise error
    if bug:
        _log.exception("delivery.crashed_again", error=type(error).__name__, task_id=x.task.task_id)
    return await reject(x, known)


async def fail_attempt(x: Execution, error: TaskError) -> Outcome:
    """The attempt failed: again, later, or never."""
    error = x.cancelled or error  # asked for while the attempt was failing by itself
    now, deps, claim = x.deps.clock.time(), x.deps, x.claim
    x.in_flight.trace.failed(error.detail)
    attempts_max = _attempts_max(x, error)
    expires_in = None if x.plan.expires_at is None else x.plan.expires_at - now
    decision = decide(
        error,
        failures=claim.failures,
        attempts_max=attempts_max,
        expires_in_s=expires_in,
        retry=deps.retry,
        jitter=deps.random(),
        available_in_s=x.permits.available_in_s,
        first=x.permits.has_priority,
    )
    rest = await settlement.rest_of_text(x)
    match decision:
        case Retry(delay):
            return await _retry(x, error, delay, rest)
        case WaitForModel():
            return await _wait_for_model(x, error, decision, rest)
        case GiveUp():
            code = final_code(error, expires_in_s=expires_in, failures=claim.failures, attempts_max=attempts_max)
            return await give_up(x, error, stage=x.stage, code=code, rest=rest)


def _attempts_max(x: Execution, error: TaskError) -> int:
    """Failures allowed. A model that cut the answer at its limit would cut it again: the next attempt leaves it out."""
    if not (isinstance(error, ProviderError) and error.cut):
        return x.plan.attempts_max
    cut = {*x.entry.cut_models, x.permits.model.id}
    x.in_flight.leaves_note(cut_models=sorted(cut))
    return x.plan.attempts_max if any(model.id not in cut for model in x.plan.models) else 0


async def _retry(x: Execution, error: TaskError, delay_s: float, rest: Sequence[EventDraft]) -> Outcome:
    """A counted failure with attempts left."""
    deps = x.deps
    if not deps.budget.may_retry(x.permits.model.id, deps.clock.monotonic()):
        delay_s = max(delay_s, deps.retry.cap_s)  # the model is in trouble: retries must not become most of its load
    await _transition(x, Transition(State.RETRYING, error.code, "failed", count_failure=True))
    events = [*rest, *attempt_events.retry_events(error, x.stage, deps.clock.time() + delay_s)]
    await settlement.snooze(x, events, delay_s, reason="RETRY_AT")
    return Retrying(error.code, delay_s)


async def _wait_for_model(x: Execution, error: TaskError, wait: WaitForModel, rest: Sequence[EventDraft]) -> Outcome:
    """No model is available to this attempt: no failure, unless it has waited too long in all."""
    now = x.deps.clock.time()
    since_ms = x.entry.parked_at or int(now * 1000)
    if now - since_ms / 1000 > x.deps.limiter_settings.wait_max_s:
        return await give_up(x, error, stage=x.stage, code=Code.WORKER_OVERLOADED, rest=rest)
    await _transition(x, Transition(State.RETRYING, error.code, "deferred"))
    events = [*rest, attempt_events.waiting_event(Stage.EXECUTE, wait.reason)]
    await settlement.snooze(x, events, wait.delay_s, reason=wait.reason, since_ms=since_ms)
    return Snoozed(wait.reason, wait.delay_s)


async def give_up(
    x: Execution, error: TaskError, *, stage: Stage, code: Code | None = None, rest: Sequence[EventDraft] = ()
) -> Outcome:
    """The task ends with `code` (that of `error` if not said): row, terminal event, dead letter."""
    code = code or error.code
    state = terminal_state(code)
    await _transition(x, Transition(state, code, state.value, count_failure=state is State.FAILED))
    message = error.message if code is error.code else ""
    usage = None if x.in_flight.delivery.entry is None else x.in_flight.delivery.entry.spent
    await settlement.end(x, [*rest, attempt_events.final_event(stage, code, message, usage)], code, error.detail)
    return Failed(code)


async def _transition(x: Execution, transition: Transition) -> None:
    if not await settlement.leave_running(x, transition):
        raise LeaseLost("the attempt is not ours any more")


async def end_by_event(x: Execution, appended: Appended) -> Outcome:
    """The events have ended and the row has not: it ends as viewers were told, without a model call.

    `done`: Postgres has lost the commit. Row and result are written back, or the row says that the result is lost.
    """
    terminal = await x.until_available(lambda: x.deps.settlement.ending(x.task))
    if terminal is None or terminal[0].type is not EventType.DONE:
        known = Code.CANCELLED if appended.cancel else Code.DELIVERY_FAILED
        code = Code.__members__.get(str(terminal[0].data.get("code"))) if terminal is not None else None
        return await give_up(x, TaskError(code=code or known), stage=Stage.DELIVER)
    if appended.attempt > x.claim.attempt:
        await x.raise_attempt(appended.attempt)
    draft = rebuild_result(*terminal)
    if draft is None:
        await _transition(x, Transition(State.DONE, Code.RESULT_LOST, "done"))
    else:
        attempt, owner = x.claim.attempt, x.deps.owner
        await x.until_available(lambda: x.deps.ledger.finish(x.task.task_id, attempt, owner, draft))
        x.row_ended()
    await settlement.append_last(x, ())
    await settlement.acknowledge(x)
    return CompletedAgain()


# --- before an attempt --------------------------------------------------------------------------------------------


async def handle_unreadable(x: Execution) -> Outcome:
    """An entry that can't be read: deferred for a while if a newer release wrote it, else dead-lettered as poison."""
    deps, d = x.deps, x.in_flight.delivery
    newer = d.unsupported
    waited_s = deps.clock.time() - newer.since_ms / 1000 if newer is not None and newer.since_ms else 0.0
    if newer is None or waited_s > deps.limiter_settings.wait_max_s:
        await settlement.dead_letter(x, Code.INVALID_PAYLOAD, d.poison, whole_task=False)
        return Dropped("poison")
    await x.until_available(partial(deps.settlement.defer_unread, d, newer, int(deps.retry.cap_s * 1000)))
    x.in_flight.settled_entry()
    return Snoozed(Reason.RETRY_AT, deps.retry.cap_s)


async def reject(x: Execution, error: TaskError) -> Outcome:
    """A task that ends without starting: bad, unknown, expired, cancelled, or having waited too long."""
    d, ledger, state = x.in_flight.delivery, x.deps.ledger, terminal_state(error.code)
    if not await release_claim(x):
        return await leave_pending(x)
    if not await x.until_available(lambda: ledger.end_unclaimed(x.entry, state, error.code, d.entry_id)):
        conflict = await x.until_available(lambda: ledger.task_id_conflict(d.queue, x.entry))
        return await drop(x, conflict=conflict)
    event = attempt_events.final_event(Stage.QUEUE, error.code, error.message)
    await settlement.end(x, [event], error.code, error.detail)
    return Failed(error.code)


async def end_without_row(x: Execution, error: TaskError) -> Outcome:
    """A message that Postgres can't hold: event and dead letter only."""
    event = attempt_events.final_event(Stage.LOAD, error.code, error.message)
    await settlement.end(x, [event], error.code, error.detail)
    return Failed(error.code)


async def wait_for_permits(x: Execution, answer: WaitForPermit | NoModelAvailable) -> Outcome:
    """A limiter is full or no model is available: leave the slot at once and say why."""
    if x.cancelled is not None:
        return await reject(x, x.cancelled)
    deps, entry = x.deps, x.entry
    now_ms, jitter, limits = int(deps.clock.time() * 1000), deps.random(), deps.limiter_settings
    if isinstance(answer, WaitForPermit):
        wait = snooze_for_permit(entry, answer.permit, now_ms, limits, deps.retry, jitter, answer.rank)
    else:
        wait = snooze_until_available(entry, answer, now_ms, limits, deps.retry, jitter, first=x.permits.has_priority)
    if wait is None:
        return await reject(x, TaskError(code=Code.WORKER_OVERLOADED))
    if not await release_claim(x):
        return await leave_pending(x)
    # Told once for each reason, not at every look.
    events = [] if entry.parked == wait.reason else [attempt_events.waiting_event(Stage.GUARDS, wait.reason)]
    await settlement.snooze(x, events, wait.delay_s, reason=wait.reason, since_ms=wait.since_ms, wakeable=wait.wakeable)
    return Snoozed(wait.reason, wait.delay_s)


async def release_claim(x: Execution) -> bool:
    """A row that still says `running` by this entry is released before the entry moves; False: its owner lives."""
    return not x.in_flight.delivery.redelivered or await x.until_available(lambda: _claim_released(x))


async def _claim_released(x: Execution) -> bool:
    deps, entry_id = x.deps, x.in_flight.delivery.entry_id
    dead = tuple(deps.dead_owners)
    return await deps.ledger.release_claim(x.task.task_id, entry_id, deps.owner, deps.lease.lease_s, dead)


async def leave_pending(x: Execution) -> Outcome:
    """Another owner runs the task by this entry: give the permits back, and nothing else."""
    await settlement.append_last(x, ())
    return Refused()


async def drop(x: Execution, *, conflict: str = "") -> Outcome:
    """Settle an entry that has no say about its task: a duplicate, or (`conflict`) another body under the same id."""
    await settlement.append_last(x, ())
    if not conflict:
        await settlement.acknowledge(x, whole_task=False)
        return Dropped("duplicate")
    # It was accepted and will never start: its place goes back. Images may be those of the task it names.
    await settlement.dead_letter(x, Code.INVALID_PAYLOAD, conflict, with_blobs=False)
    return Dropped("task_id_conflict")


# --- interrupted --------------------------------------------------------------------------------------------------


async def requeue(x: Execution, why: Exception) -> Outcome:
    """Let another process have the task, if it is still ours to give. No failure is counted."""
    in_flight, ledger = x.in_flight, x.deps.ledger
    if in_flight.delivery.entry is None:
        return Abandoned(type(why).__name__)
    outcome = "fenced" if isinstance(why, LeaseLost) else "handed_back"
    try:
        async with asyncio.timeout(_REQUEUE_S):
            events: list[EventDraft] = []
            if in_flight.attempt is None:
                # A claim whose reply was lost may have said `running` by this entry, which is about to move.
                if not await _claim_released(x):
                    return await leave_pending(x)
            else:
                trace = in_flight.trace
                ending = Transition(State.QUEUED, None, outcome, usage=trace.spent, model_id=trace.model_id or None)
                if not await ledger.transition(x.task.task_id, in_flight.attempt, x.deps.owner, ending):
                    await settlement.append_last(x, ())
                    return Fenced()
                events = [attempt_events.requeued_event()]
            await settlement.append_last(x, events)
            moved = await x.deps.settlement.requeue(in_flight.delivery)
    except (DependencyAway, RedisFull, TimeoutError) as error:
        return Abandoned(type(error).__name__)
    in_flight.settled_entry()
    return Requeued() if moved else Fenced()
