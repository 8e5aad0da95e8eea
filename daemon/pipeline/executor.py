"""Process one delivery: from the entry that was read to the entry that is settled.

The completion order: result committed, then terminal event appended, then permits released, then entry acknowledged.
A crash between two of these is healed by redelivery, which finds the ended row and repeats only what is left. Flushes
to Redis of a task that goes well: permits; begin; done and release; ack. Steps raise; `execute` decides what an error
means. How a delivery leaves this process is in `settlement` (success) and `failure` (everything else).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from daemon.domain.errors import DependencyAway, LeaseLost, ModelUnavailable, RedisFull, Stopping, TaskError
from daemon.domain.events import Stage, started, total_usage
from daemon.domain.messages import check_message, identity_of
from daemon.domain.model_io import ModelRequest
from daemon.observability.logging import logger
from daemon.pipeline import attempt_events, failure, quarantine, settlement
from daemon.pipeline.complete_again import complete_again
from daemon.pipeline.dependencies import Dependencies
from daemon.pipeline.execution import Execution, Phase
from daemon.pipeline.in_flight import InFlight
from daemon.pipeline.model_call import ModelAnswer, ask_model, priced, result_of
from daemon.pipeline.model_request import for_model, load, references
from daemon.pipeline.outcome import Abandoned, Done, Outcome
from daemon.pipeline.permit_acquisition import PermitAcquisition
from daemon.pipeline.route import route
from daemon.pipeline.validate import validate
from daemon.ports import AlreadyEnded, AlreadyRunning, Appended, Claimed, StillRunning, TaskIdConflict
from daemon.services.output import parse_output

_log = logger(__name__)


async def execute(deps: Dependencies, in_flight: InFlight) -> Outcome:
    """How this delivery ended, all of it durable. Raises nothing but cancellation; may be repeated after a crash."""
    x = Execution(deps, in_flight)
    try:
        try:
            return await _run_steps(x)
        except (LeaseLost, Stopping) as error:
            x.abandon_text()
            return await failure.requeue(x, error)
    except (DependencyAway, RedisFull) as error:
        x.abandon_text()
        in_flight.trace.failed(str(error))
        return Abandoned(type(error).__name__)
    except Exception as error:  # noqa: BLE001  # a bug: the entry stays pending, is found after a lease, counts as a crash
        _log.exception("delivery.crashed", error=type(error).__name__, task_id=in_flight.task_id)
        return Abandoned(f"bug: {type(error).__name__}", crashed=True)


async def _run_steps(x: Execution) -> Outcome:
    try:
        for step in STEPS:
            if (outcome := await step(x)) is not None:
                return outcome
        raise AssertionError("the last step settles the delivery")
    except (LeaseLost, Stopping, DependencyAway, RedisFull):
        raise
    except Exception as error:  # noqa: BLE001  # of the task or a bug: this delivery fails, the daemon goes on
        return await failure.step_raised(x, error)


# --- the steps, in their order ------------------------------------------------------------------------------------


async def read_entry(x: Execution) -> Outcome | None:
    """The message, if the entry can be read; one of a newer release is left to a newer daemon."""
    entry = x.in_flight.delivery.entry
    if entry is None:
        return await failure.handle_unreadable(x)
    x.entry, x.task = entry, identity_of(entry.message)
    return None


async def make_plan(x: Execution) -> Outcome | None:
    """Service, models, permits and limits of this attempt; raises `Rejected` for a message that may not run here."""
    message, catalog = x.entry.message, x.deps.catalog()
    x.in_flight.found_blobs(references(message))
    check_message(message)
    valid = validate(message, x.in_flight.delivery.queue, catalog, x.deps.clock.time())
    x.plan = route(valid, x.deps.limiter_settings, x.deps.queue_limit(valid.queue.name), x.entry.cut_models)
    return None


async def acquire_permits(x: Execution) -> Outcome | None:
    """A permit of each limiter and an available model, all or none; else the task waits outside."""
    x.permits = PermitAcquisition(x.deps, x.in_flight, x.entry, x.plan)
    if x.in_flight.crash_seen:  # it is claimed to be ended, and no model is called
        return None
    if quarantine.must_wait(x):
        return await quarantine.wait(x)
    denied = await x.permits.acquire()
    return None if denied is None else await failure.wait_for_permits(x, denied)


async def claim_attempt(x: Execution) -> Outcome | None:
    """The attempt number from Postgres; only `Claimed` may spend money."""
    deps, d, model_id = x.deps, x.in_flight.delivery, x.permits.model.id
    try:
        claim = await x.until_available(
            lambda: deps.ledger.claim(d, deps.owner, model_id, deps.lease.lease_s, tuple(deps.dead_owners))
        )
    except TaskError as error:  # Postgres can't hold this message: there is no row, so event and dead letter say it
        return await failure.end_without_row(x, error)
    match claim:
        case Claimed():
            x.claim, x.phase = claim, Phase.CLAIMED
            x.in_flight.claimed(claim.attempt)
            x.in_flight.found_blobs(references(x.entry.message, claim.context))
            return None
        case AlreadyEnded():
            return await complete_again(x, claim)
        case AlreadyRunning():
            return await failure.drop(x)
        case StillRunning():
            return await failure.leave_pending(x)
        case TaskIdConflict():
            return await failure.drop(x, conflict=claim.why)


async def begin_attempt(x: Execution) -> Outcome | None:
    """`started`, and the queue's place given back, in the flush that also proves that the entry is still ours."""
    if (outcome := await quarantine.check_crashes(x)) is not None:
        return outcome
    if x.claim.attempt == 1:
        x.in_flight.trace.waited(x.deps.clock.time() - x.entry.accepted_at / 1000)
    appended = await _start(x)
    if not (appended.accepted or appended.ended):
        # The row is ours, but the events know this number: Postgres has lost commits, and hands it out again.
        await x.raise_attempt(appended.attempt + 1)
        appended = await _start(x)
    if appended.ended:  # its viewer was told the end: there is nobody to run it for
        return await failure.end_by_event(x, appended)
    x.check_appended(appended)
    x.phase = Phase.RUNNING
    return None


async def _start(x: Execution) -> Appended:
    event = started(x.permits.model.id)  # made once: a repeated append of the same draft adds nothing
    begin = x.deps.settlement.begin
    owned, appended = await x.until_available(lambda: begin(x.in_flight.delivery, x.task, x.claim.attempt, event))
    if not owned:
        raise LeaseLost("the entry left us before the attempt began")
    return appended


async def load_request(x: Execution) -> Outcome | None:
    """What the model is asked: input, template, pictures."""
    if x.claim.context_error is not None:
        raise x.claim.context_error
    x.request = await load(x.entry.message, x.plan, x.claim.context, x.deps.templates, x.deps.blobs)
    if x.request.stream:
        x.writer = x.deps.deltas.open(x.task, x.claim.attempt, x.check_appended)
    return None


async def call_model(x: Execution) -> Outcome | None:
    """The answer of the model, or of a fallback where it became unavailable before its first word.

    A parameter that the model refuses is left out of a second call in the same attempt.
    """
    x.stage = Stage.EXECUTE
    refusals = x.deps.refusals
    while True:
        model = x.permits.model
        request = for_model(x.request, model, refusals.of(model))
        try:
            x.answer = await _timed_call(x, request)
            break
        except ModelUnavailable as error:
            if not await x.permits.try_next_model(error):
                raise
            events = [attempt_events.fallback_event(x.permits.model.id)]
            append = partial(x.deps.settlement.append, x.task, x.claim.attempt, events)
            x.check_appended(await x.until_available(append))
        except TaskError as error:
            if not refusals.add(model, request, error):
                raise
    if x.request.json_output:
        x.data = parse_output(x.answer.text, x.plan.service, cut=x.answer.finished.reason == "length")
    return None


async def commit_result(x: Execution) -> Outcome | None:
    """State `done` and result in one statement, by compare-and-set on the attempt; then events, permits and entry."""
    draft = result_of(x.answer, x.data, x.permits.model, x.deps.clock.time())
    x.stage = Stage.WRITE
    x.in_flight.trace.commits(draft.usage)
    if x.writer is not None:  # all text first: whoever repeats the end after a crash has only the result
        await x.writer.flush()
    stored = await x.until_available(lambda: x.deps.ledger.finish(x.task.task_id, x.claim.attempt, x.deps.owner, draft))
    x.row_ended()
    await settlement.complete(x, stored)
    return Done(stored.model_id, stored.usage)


async def _timed_call(x: Execution, request: ModelRequest) -> ModelAnswer:
    """One call of one model within its hard deadline; what it tells of the model is noted for the release."""
    deps, in_flight, permits = x.deps, x.in_flight, x.permits
    provider = deps.provider(request.provider, request.proxy)
    await provider.prepare()
    began, wall = deps.clock.monotonic(), deps.clock.time()
    if began - in_flight.renewed_at > deps.lease.self_fence_s:
        # We stood still since the last renewal: another process may have run this task to its end meanwhile.
        raise LeaseLost(f"no good beat for {deps.lease.self_fence_s:g} s before the call")
    deps.budget.record_call(permits.model.id, began)
    in_flight.call_began(began + x.plan.timeouts.total_s + deps.lease.lease_s, wall)
    permits.call_began()
    try:
        answer = await ask_model(request, provider, in_flight.scope, x.plan.timeouts, x.writer, deps.clock)
    except Exception as error:
        permits.call_failed(error)
        raise
    finally:
        spent = total_usage(*(priced(permits.model, u, deps.clock.time()) for u in request.spent))
        in_flight.call_ended(deps.clock.monotonic() - began, spent)
    permits.call_answered(answer)
    in_flight.trace.answered(answer.finished, answer.first_token_at, wall)
    return answer


STEPS: Final[tuple[Callable[[Execution], Awaitable[Outcome | None]], ...]] = (
    read_entry,
    make_plan,
    acquire_permits,
    claim_attempt,
    begin_attempt,
    load_request,
    call_model,
    commit_result,
)
