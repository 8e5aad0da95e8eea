"""Settle a delivery: last events, release of permits, entry; each one flush, in the completion order.

Every function may be repeated from its beginning after a crash at any point: the row is already what it should be, an
event is refused or accepted once, a released permit stays released, and an entry that is not ours any more is left
alone. Decides nothing: `executor` and `failure` say which of these a delivery needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from daemon.domain.errors import Code, DependencyAway, RedisAway, RedisFull
from daemon.domain.events import Channel, EventDraft, token_batch, total_usage
from daemon.domain.states import State
from daemon.observability.logging import logger
from daemon.pipeline import attempt_events
from daemon.pipeline.execution import Execution
from daemon.pipeline.outcome import CompletedAgain, Outcome
from daemon.ports import AlreadyEnded, StoredResult, Transition

_log = logger(__name__)

#: the task is over and its viewer knows: a store that is slow now is left to the sweep
_DROP_S: Final = 3.0
#: how often the rest of a text is looked for; each further look means that somebody appended in between
_LOOKS_MAX: Final = 5


async def complete(x: Execution, stored: StoredResult) -> None:
    """The rest of the text and `done`, the permits, the entry: after the result was committed."""
    rest = await rest_of_text(x)
    await append_last(x, [*rest, attempt_events.done_event(x.task.task_id, stored)])
    await acknowledge(x)


async def complete_again(x: Execution, ended: AlreadyEnded) -> Outcome:
    """The task had ended, and its last process may have died before it could say so: events, permits and entry."""
    x.in_flight.claimed(ended.attempt)
    x.row_ended()
    code = None if ended.state is State.DONE else ended.error_code or Code.INTERNAL
    event = attempt_events.ended_event(x.task.task_id, ended)
    try:
        text = ended.result.content if x.plan.stream and ended.result is not None else ""
        await _append_last_with_text(x, event, text)
        await _settle_entry(x, code, "ended before")
    except (DependencyAway, RedisFull):
        raise
    except Exception as error:  # noqa: BLE001  # its end can't be told (the key of its events is no stream, say)
        _log.exception("settlement.crashed", error=type(error).__name__, task_id=x.task.task_id)
        await dead_letter(x, Code.INTERNAL, f"its end can't be told: {type(error).__name__}")
    return CompletedAgain()


async def leave_running(x: Execution, transition: Transition) -> bool:
    """Move the row out of `running`, if the attempt still owns it. What it has cost is noted in row and entry."""
    attempt, spent, owner = x.in_flight.attempt or 0, x.in_flight.trace.spent, x.deps.owner
    transition = replace(transition, usage=spent)
    x.in_flight.leaves_note(spent=total_usage(x.entry.spent, spent))
    left = await x.until_available(lambda: x.deps.ledger.transition(x.task.task_id, attempt, owner, transition))
    if left:
        x.row_ended()
    return left


async def rest_of_text(x: Execution) -> list[EventDraft]:
    """Text that viewers lack still, once Redis has said what became of the batch under way."""
    if x.writer is None:
        return []
    try:
        async with asyncio.timeout(x.deps.hold_result_s):
            return await x.writer.close()
    except TimeoutError:
        raise RedisAway("Redis: no word about the last deltas") from None


async def append_last(x: Execution, drafts: Sequence[EventDraft]) -> None:
    """The last events and the release of the permits in one flush; without events only the release."""
    in_flight, held = x.in_flight, x.in_flight.held
    if drafts:
        append = x.deps.settlement.append_and_release
        await x.until_available(lambda: append(x.task, in_flight.event_attempt, drafts, *held), interruptible=False)
    elif held.permits:
        await x.until_available(lambda: x.deps.limiter.release(*held), interruptible=False)
    in_flight.released_permits()


async def _append_last_with_text(x: Execution, end_event: EventDraft, text: str) -> None:
    """The end after what viewers lack of `text`, whoever ran the attempt.

    Redis may have been away when the result was committed, and that process may still be about to send its rest: the
    text that is there and the end are one compare-and-set, so nothing is doubled.
    """
    settlement, attempt = x.deps.settlement, x.in_flight.event_attempt
    for _ in range(_LOOKS_MAX):
        told, seq = await x.until_available(lambda: settlement.streamed_text(x.task, attempt), interruptible=False)
        lacking = text[len(told) :] if text.startswith(told) else ""
        drafts = [*([token_batch(lacking, Channel.TEXT)] if lacking else []), end_event]
        step = partial(settlement.append_and_release, x.task, attempt, drafts, *x.in_flight.held, after=seq)
        appended = await x.until_available(step, interruptible=False)
        x.in_flight.released_permits()
        if not appended.overtaken:
            return
    raise RedisAway("Redis: somebody appended at every look; the entry stays pending")


async def acknowledge(x: Execution, *, whole_task: bool = True) -> None:
    """The entry is settled; with `whole_task` the task is over, and its images go."""
    if whole_task:
        await _drop_blobs(x)
    ack = x.deps.settlement.ack
    await x.until_available(lambda: ack(x.in_flight.delivery, whole_task=whole_task), interruptible=False)
    x.in_flight.settled_entry()


async def dead_letter(
    x: Execution, code: Code, reason: str, *, whole_task: bool = True, with_blobs: bool | None = None
) -> None:
    """The entry is settled and a letter without content lies in `:dead`. Images go with the task if not said."""
    d, attempts, write = x.in_flight.delivery, x.in_flight.attempt or 0, x.deps.settlement.dead_letter
    if whole_task if with_blobs is None else with_blobs:
        await _drop_blobs(x)
    step = partial(write, d, code=code, reason=reason, attempts=attempts, whole_task=whole_task)
    await x.until_available(step, interruptible=False)
    x.in_flight.settled_entry()


async def end(x: Execution, drafts: Sequence[EventDraft], code: Code, reason: str) -> None:
    """Events, permits and entry of a task that failed. A cancelled one leaves no dead letter: its user wanted that."""
    await append_last(x, drafts)
    await _settle_entry(x, code, reason)


async def _settle_entry(x: Execution, code: Code | None, reason: str) -> None:
    if code in {None, Code.CANCELLED}:
        await acknowledge(x)
    else:
        await dead_letter(x, code or Code.INTERNAL, reason)


async def snooze(
    x: Execution,
    drafts: Sequence[EventDraft],
    delay_s: float,
    *,
    reason: str,
    since_ms: int = 0,
    wakeable: bool = False,
) -> None:
    """Events, permits and entry of a task that waits for `delay_s`. Its row has left `running` before."""
    await append_last(x, drafts)
    due_in_ms = max(1, int(delay_s * 1000))
    move = partial(x.deps.settlement.snooze, reason=reason, waiting_since_ms=since_ms, wakeable=wakeable)
    await x.until_available(lambda: move(x.in_flight.delivery, due_in_ms))
    x.in_flight.settled_entry()


async def _drop_blobs(x: Execution) -> None:
    """The images go after the terminal event and before the ack: a crash in between repeats this."""
    entry = x.in_flight.delivery.entry
    if entry is None or not x.in_flight.blobs:
        return
    try:
        async with asyncio.timeout(_DROP_S):
            await x.deps.blobs.drop(x.in_flight.blobs, entry.message.user_id)
    except (DependencyAway, TimeoutError) as error:
        x.in_flight.trace.blobs_left = str(error) or type(error).__name__
