"""One delivery from entry to settled.

The list of steps and the order in which they become durable. Broad `except`s turn a bug into one failed attempt.

    validate -> route -> guard -> claim -> begin -> load -> execute -> write -> publish -> cleanup
                                                     └───────── settle ─────────┘

The law: result committed, then terminal event, then guards released, then ack. A crash between two of these is
healed by redelivery, which finds the terminal row and repeats only the tail. Flushes to Redis for a task that goes
well: guards; begin; done and release; ack.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from daemon.domain.errors import Code, DependencyAway, LeaseLost, ModelClosed, RedisAway, RedisFull, Stopping, TaskError
from daemon.domain.events import EventDraft, Reason, Stage, started
from daemon.domain.messages import WorkEntry, check_message, identity_of
from daemon.domain.model_io import ModelRequest
from daemon.domain.permits import MustWait, Shut
from daemon.domain.states import State
from daemon.observability.logging import logger
from daemon.pipeline import attempt_events
from daemon.pipeline.dependencies import World
from daemon.pipeline.in_flight import Hold
from daemon.pipeline.model_call import Answer, execute, result_of
from daemon.pipeline.model_request import for_model, load, references
from daemon.pipeline.outcome import Abandoned, Deferred, Done, Dropped, Failed, Outcome, Repeated, Retrying
from daemon.pipeline.output_schema import parse_output
from daemon.pipeline.permit_acquisition import Entrance
from daemon.pipeline.permit_policy import denied, shut_out
from daemon.pipeline.retry_policy import GiveUp, RunAgain, Wait, final_code, settle
from daemon.pipeline.retry_while_unavailable import Patience
from daemon.pipeline.route import Plan, route
from daemon.pipeline.settlement import Cleanup, terminal_state
from daemon.pipeline.validate import validate
from daemon.ports import AlreadyEnded, Appended, Claimed, DeltaWriter, Duplicate, Ending, Foreign

_log = logger(__name__)


async def run(world: World, hold: Hold) -> Outcome:
    """How this delivery ended, all of it durable.

    Raises nothing but cancellation; a crash anywhere is healed by redelivery.
    """
    entry = hold.delivery.entry
    patience = Patience(hold, world.clock, world.hold_result_s)
    cleanup = Cleanup(world, hold, patience)
    try:
        if entry is None:
            ahead = hold.delivery.ahead
            if ahead is not None and await cleanup.lay_aside(ahead):
                return Deferred(Reason.RETRY_AT, world.retry.cap_s)
            await cleanup.dead_letter(Code.INVALID_PAYLOAD, hold.delivery.poison, whole_task=False)
            return Dropped("poison")
        course = Course(world, hold, entry, patience, cleanup)
        try:
            return await course.deliver()
        except (LeaseLost, Stopping) as error:
            return await cleanup.give_back(course.task, error)
        except (DependencyAway, RedisFull):
            raise
        except Exception as error:
            # Ours. With an attempt, Postgres counts a crash when the entry is found again; without one nobody would,
            # so the second time ends it: a bug must not go round for ever.
            if hold.attempt is not None or not hold.delivery.redelivered:
                raise
            _log.exception("delivery.broke_again", error=type(error).__name__, task_id=hold.task_id)
            return await course.reject(TaskError(code=Code.INTERNAL, detail=type(error).__name__))
    except (DependencyAway, RedisFull) as error:
        hold.trace.detail = str(error)
        return Abandoned(type(error).__name__)
    except Exception as error:  # noqa: BLE001  # ours: the entry stays pending, is found again after a lease and counted as a crash
        _log.exception("delivery.broke", error=type(error).__name__, task_id=hold.task_id)
        return Abandoned(f"bug: {type(error).__name__}")


class Course:
    """The course of one readable delivery; each method is one bend in it and says which outcomes lie behind."""

    def __init__(self, world: World, hold: Hold, entry: WorkEntry, patience: Patience, cleanup: Cleanup) -> None:
        self._world = world
        self._hold = hold
        self._entry = entry
        self._patience = patience
        self._cleanup = cleanup
        self.task = identity_of(entry.message)

    async def deliver(self) -> Outcome:
        """Judge the message, take the guards, claim the attempt."""
        message, book = self._entry.message, self._world.book()
        self._hold.blobs = references(message)
        try:
            check_message(message)
            valid = validate(message, self._hold.delivery.queue, book, self._world.clock.time())
            plan = route(valid, self._world.guard_settings, self._world.queue_limit(valid.queue.name))
        except TaskError as error:
            return await self.reject(error)
        entrance = Entrance(self._world, self._hold, self._entry, self._patience, plan)
        denied_by = await entrance.enter()
        if denied_by is not None:
            return await self._wait_outside(entrance, denied_by)
        return await self._claim(plan, entrance)

    async def _claim(self, plan: Plan, entrance: Entrance) -> Outcome:
        """Ask Postgres for the attempt; only `Claimed` may spend money."""
        world, d = self._world, self._hold.delivery
        try:
            claim = await self._patience.of(
                lambda: world.ledger.claim(d, world.owner, entrance.model.id, world.lease.lease_s)
            )
        except (
            TaskError
        ) as error:  # Postgres can't hold this message at all: no row, so the event and the letter say it
            event = attempt_events.final_event(Stage.LOAD, error.code, error.message)
            await self._cleanup.end(self.task, [event], error.code, error.detail)
            return Failed(error.code)
        match claim:
            case Claimed():
                self._hold.attempt = claim.attempt
                self._hold.blobs = references(self._entry.message, claim.context)
                return await self._begin(plan, entrance, claim)
            case AlreadyEnded():
                return await self._repeat_tail(claim, plan)
            case Duplicate():
                await self._cleanup.drop(self.task)
                return Dropped("duplicate")
            case Foreign():
                await self._cleanup.drop(self.task, foreign=claim.why)
                return Dropped("foreign")

    async def _begin(self, plan: Plan, entrance: Entrance, claim: Claimed) -> Outcome:
        """Give the place back and tell the viewer, in the flush that also proves that the entry is still ours."""
        if claim.crashes >= self._world.lease.crashes_max:
            return await self._give_up(Stage.EXECUTE, TaskError(code=Code.WORKER_LOST), Code.WORKER_LOST)
        if claim.attempt == 1:
            self._hold.trace.wait_s = max(0.0, self._world.clock.time() - self._entry.accepted_at / 1000)
        event = started(entrance.model.id)  # made once: a repeated append of the same draft adds nothing
        owned, appended = await self._patience.of(
            lambda: self._world.tail.begin(self._hold.delivery, self.task, claim.attempt, event)
        )
        if not owned:
            raise LeaseLost("the entry left us before the attempt began")
        if appended.ended:  # its viewer was told the end (cancelled, DELIVERY_FAILED): there is nobody to run it for
            code = Code.CANCELLED if appended.cancel else Code.DELIVERY_FAILED
            return await self._give_up(Stage.DELIVER, TaskError(code=code), code)
        self._heed(appended)
        return await self._attempt(plan, entrance, claim)

    async def _attempt(self, plan: Plan, entrance: Entrance, claim: Claimed) -> Outcome:
        """Run it, commit it, tell it. Whatever goes wrong before the commit is settled as this attempt's failure."""
        world, hold = self._world, self._hold
        stage, writer = Stage.LOAD, None
        try:
            if claim.context_error is not None:
                raise claim.context_error
            request = await load(self._entry.message, plan, claim.context, world.templates, world.blobs)
            if request.stream:
                writer = world.deltas.open(self.task, claim.attempt, self._heed)
            stage = Stage.EXECUTE
            answer = await self._answer(plan, entrance, request, writer)
            data = parse_output(answer.text, plan.service) if request.json_output else None
            draft = result_of(answer, data, entrance.model)
            stage = Stage.WRITE
            hold.trace.usage = draft.usage
            if writer is not None:  # all text first: whoever repeats the tail after a crash has only the result
                await writer.flush()
            stored = await self._patience.of(lambda: world.ledger.finish(self.task.task_id, claim.attempt, draft))
        except TaskError as error:
            return await self._settle(plan, entrance, claim, stage, error, writer)
        except (LeaseLost, Stopping, DependencyAway, RedisFull):
            if writer is not None:
                writer.abandon()
            raise
        except Exception as error:  # noqa: BLE001  # a bug is one attempt's failure, not the daemon's
            _log.exception("attempt.broke", error=type(error).__name__, task_id=self.task.task_id)
            return await self._settle(plan, entrance, claim, stage, TaskError(detail=type(error).__name__), writer)
        hold.row_left = True
        rest = await self._rest(writer)
        await self._cleanup.conclude(self.task, [*rest, attempt_events.done_event(stored)], heed=False)
        await self._cleanup.ack()
        return Done(stored.model_id, stored.usage)

    async def _answer(
        self, plan: Plan, entrance: Entrance, request: ModelRequest, writer: DeltaWriter | None
    ) -> Answer:
        """The answer of the model or of a fallback; a parameter that the model refuses is left out of a second call."""
        refusals = self._world.refusals
        while True:
            model = entrance.model
            asked = for_model(request, model, refusals.of(model))
            try:
                answer = await self._call(plan, entrance, asked, writer)
            except ModelClosed as error:
                if not await entrance.fall_back(error):
                    raise
                await self._say(attempt_events.falling_back_event(entrance.model.id))
            except TaskError as error:
                if not refusals.add(model, asked, error):
                    raise
            else:
                return answer

    async def _rest(self, writer: DeltaWriter | None) -> list[EventDraft]:
        """Text that is still to be told, once Redis has said what became of the batch under way."""
        if writer is None:
            return []
        try:
            async with asyncio.timeout(self._world.hold_result_s):
                return await writer.close()
        except TimeoutError:
            raise RedisAway("Redis: no word about the last deltas") from None

    async def _say(self, event: EventDraft) -> None:
        attempt = self._hold.attempt or 0
        self._heed(await self._patience.of(lambda: self._world.tail.append(self.task, attempt, [event])))

    async def _call(self, plan: Plan, entrance: Entrance, request: ModelRequest, writer: DeltaWriter | None) -> Answer:
        """One call of one model; what it tells of the model is noted, to be told with the release."""
        world, hold = self._world, self._hold
        provider = world.provider(request.provider)
        await provider.prepare()
        began, wall = world.clock.monotonic(), world.clock.time()
        if began - hold.good_at > world.lease.self_fence_s:
            # We stood still since the last beat: another one may have run this task to its end meanwhile.
            raise LeaseLost(f"no good beat for {world.lease.self_fence_s:g} s before the call")
        world.budget.called(entrance.model.id, began)
        hold.stuck_after = began + plan.limits.total_s + world.lease.lease_s
        hold.trace.called_at = wall
        entrance.calling()
        try:
            answer = await execute(request, provider, hold.scope, plan.limits, writer, world.clock)
        except Exception as error:
            entrance.failed(error)
            raise
        finally:
            hold.trace.execute_s = world.clock.monotonic() - began
            hold.stuck_after = float("inf")
        entrance.answered(answer)
        self._trace(answer, wall)
        return answer

    async def _settle(
        self,
        plan: Plan,
        entrance: Entrance,
        claim: Claimed,
        stage: Stage,
        error: TaskError,
        writer: DeltaWriter | None,
    ) -> Outcome:
        """An attempt failed: again, later, or never."""
        error = self._cancelled() or error  # asked for while the attempt was failing by itself
        now = self._world.clock.time()
        self._hold.trace.detail = error.detail
        expires_in = None if plan.expires_at is None else plan.expires_at - now
        verdict = settle(
            error,
            failures=claim.failures,
            attempts_max=plan.attempts_max,
            expires_in_s=expires_in,
            retry=self._world.retry,
            jitter=self._world.random(),
            reopens_in_s=entrance.reopens_in_s,
            first=entrance.first,
        )
        rest = await self._rest(writer)
        match verdict:
            case RunAgain(delay):
                if not self._world.budget.may_retry(entrance.model.id, self._world.clock.monotonic()):
                    delay = max(delay, self._world.retry.cap_s)  # the model is in trouble: be patient, not many
                await self._leave(Ending(State.RETRYING, error.code, "failed", count_failure=True))
                events = [*rest, *attempt_events.retry_events(error, stage, now + delay)]
                await self._cleanup.park(self.task, events, delay, reason="RETRY_AT")
                return Retrying(error.code, delay)
            case Wait():
                return await self._wait_for_model(verdict, stage, error, rest)
            case GiveUp():
                code = final_code(
                    error, expires_in_s=expires_in, failures=claim.failures, attempts_max=plan.attempts_max
                )
                return await self._give_up(stage, error, code, rest)

    async def _wait_for_model(
        self, verdict: Wait, stage: Stage, error: TaskError, rest: Sequence[EventDraft]
    ) -> Outcome:
        """No model is open to this attempt: no failure, unless it has waited too long in all."""
        now = self._world.clock.time()
        since_ms = self._entry.parked_at or int(now * 1000)
        if now - since_ms / 1000 > self._world.guard_settings.wait_max_s:
            return await self._give_up(stage, error, Code.WORKER_OVERLOADED, rest)
        await self._leave(Ending(State.RETRYING, error.code, "deferred"))
        events = [*rest, attempt_events.waiting_event(Stage.EXECUTE, verdict.reason)]
        reason = verdict.reason
        await self._cleanup.park(self.task, events, verdict.delay_s, reason=reason, since_ms=since_ms)
        return Deferred(reason, verdict.delay_s)

    async def _give_up(self, stage: Stage, error: TaskError, code: Code, rest: Sequence[EventDraft] = ()) -> Outcome:
        state = terminal_state(code)
        await self._leave(Ending(state, code, state.value, count_failure=state is State.FAILED))
        message = error.message if code is error.code else ""
        await self._cleanup.end(
            self.task, [*rest, attempt_events.final_event(stage, code, message)], code, error.detail
        )
        return Failed(code)

    async def _leave(self, ending: Ending) -> None:
        task_id, attempt = self.task.task_id, self._hold.attempt or 0
        if not await self._patience.of(lambda: self._world.ledger.leave(task_id, attempt, ending)):
            raise LeaseLost("a higher attempt exists")
        self._hold.row_left = True

    async def _repeat_tail(self, ended: AlreadyEnded, plan: Plan) -> Outcome:
        """The task had ended; its last process died before it could say so."""
        self._hold.attempt, self._hold.row_left = ended.attempt, True
        code = None if ended.state is State.DONE else ended.error_code or Code.INTERNAL
        try:
            if code is None:
                text = ended.result.content if plan.stream and ended.result is not None else ""
                await self._cleanup.conclude_again(self.task, ended.attempt, attempt_events.ended_event(ended), text)
                await self._cleanup.ack()
            else:
                await self._cleanup.end(self.task, [attempt_events.ended_event(ended)], code, "ended before")
        except (DependencyAway, RedisFull):
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, its entry must not go round for ever
            # Its end can't be told (the key of its events is no stream, say); what Postgres holds stands.
            _log.exception("tail.broke", error=type(error).__name__, task_id=self.task.task_id)
            await self._cleanup.dead_letter(Code.INTERNAL, f"its end can't be told: {type(error).__name__}")
        return Repeated()

    async def reject(self, error: TaskError) -> Outcome:
        """A task that ends without starting: bad, unknown, expired, or having waited too long."""
        d, state = self._hold.delivery, terminal_state(error.code)
        await self._let_go()
        if not await self._patience.of(
            lambda: self._world.ledger.end_unclaimed(self._entry, state, error.code, d.entry_id)
        ):
            why = await self._patience.of(lambda: self._world.ledger.foreign(d.queue, self._entry))
            await self._cleanup.drop(self.task, foreign=why)
            return Dropped("foreign" if why else "duplicate")
        event = attempt_events.final_event(Stage.QUEUE, error.code, error.message)
        await self._cleanup.end(self.task, [event], error.code, error.detail)
        return Failed(error.code)

    async def _wait_outside(self, entrance: Entrance, answer: MustWait | Shut) -> Outcome:
        """A guard is full or no model is open: leave the slot at once and say why."""
        cancelled = self._cancelled()
        if cancelled is not None:
            return await self.reject(cancelled)
        world, entry = self._world, self._entry
        now_ms, jitter, guards = int(world.clock.time() * 1000), world.random(), world.guard_settings
        if isinstance(answer, MustWait):
            wait = denied(entry, answer.place, now_ms, guards, world.retry, jitter, answer.rank)
        else:
            wait = shut_out(entry, answer, now_ms, guards, world.retry, jitter, first=entrance.first)
        if wait is None:
            return await self.reject(TaskError(code=Code.WORKER_OVERLOADED))
        await self._let_go()
        # Told once for each reason, not at every look.
        events = [] if entry.parked == wait.reason else [attempt_events.waiting_event(Stage.GUARDS, wait.reason)]
        await self._cleanup.park(
            self.task, events, wait.delay_s, reason=wait.reason, since_ms=wait.since_ms, wakeable=wait.wakeable
        )
        return Deferred(wait.reason, wait.delay_s)

    async def _let_go(self) -> None:
        """A row that still says `running` by this entry belongs to a process that died.

        It may not outlive the entry's move.
        """
        d = self._hold.delivery
        if d.redelivered:
            lease_s = self._world.lease.lease_s
            await self._patience.of(lambda: self._world.ledger.let_go(self.task.task_id, d.entry_id, lease_s))

    def _cancelled(self) -> TaskError | None:
        """The cancel that was asked for, at a moment when no call could be interrupted by it."""
        why = self._hold.scope.interrupted
        return why if isinstance(why, TaskError) else None

    def _heed(self, answer: Appended) -> None:
        """What the event stream says about this attempt: cancelled, or not ours any more."""
        if answer.cancel:
            self._hold.scope.interrupt(TaskError(code=Code.CANCELLED))
        elif not answer.accepted:
            self._hold.scope.interrupt(LeaseLost("the event stream has seen a higher attempt"))

    def _trace(self, answer: Answer, began: float) -> None:
        trace, finished = self._hold.trace, answer.finished
        trace.finish_reason, trace.answered_by = finished.reason, finished.model_name
        if answer.first_token_at is not None:
            trace.first_token_s = max(0.0, answer.first_token_at - began)
