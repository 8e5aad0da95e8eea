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

from daemon.domain.errors import Code, DependencyAway, RedisAway
from daemon.domain.events import EventDraft, total_usage
from daemon.observability.logging import logger
from daemon.pipeline import attempt_events
from daemon.pipeline.execution import Execution
from daemon.ports import StoredResult, Transition

_log = logger(__name__)

#: the task is over and its viewer knows: a store that is slow now is left to the sweep
_DROP_S: Final = 3.0


async def complete(x: Execution, stored: StoredResult) -> None:
    """The rest of the text and `done`, the permits, the entry: after the result was committed."""
    rest = await rest_of_text(x)
    await append_last(x, [*rest, attempt_events.done_event(x.task.task_id, stored)])
    await acknowledge(x)


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
    """Events, permits and entry of a task that failed."""
    await append_last(x, drafts)
    await settle_entry(x, code, reason)


async def settle_entry(x: Execution, code: Code | None, reason: str) -> None:
    """The entry of a task that has ended; a cancelled one leaves no dead letter: its user wanted that."""
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
        x.in_flight.trace.kept_blobs(str(error) or type(error).__name__)
