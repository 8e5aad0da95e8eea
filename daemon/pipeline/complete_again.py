"""Complete a task that had ended before this delivery: its last process may have died before it could say so."""

from __future__ import annotations

from functools import partial
from typing import Final

from daemon.domain.errors import Code, DependencyAway, RedisAway, RedisFull
from daemon.domain.events import Channel, EventDraft, token_batch
from daemon.domain.states import State
from daemon.observability.logging import logger
from daemon.pipeline import attempt_events, settlement
from daemon.pipeline.execution import Execution
from daemon.pipeline.outcome import CompletedAgain, Outcome
from daemon.ports import AlreadyEnded

_log = logger(__name__)

#: how often the rest of a text is looked for; each further look means that somebody appended in between
_LOOKS_MAX: Final = 5


async def complete_again(x: Execution, ended: AlreadyEnded) -> Outcome:
    """The task had ended, and its last process may have died before it could say so: events, permits and entry."""
    x.in_flight.claimed(ended.attempt)
    x.row_ended()
    code = None if ended.state is State.DONE else ended.error_code or Code.INTERNAL
    event = attempt_events.ended_event(x.task.task_id, ended)
    try:
        text = ended.result.content if x.plan.stream and ended.result is not None else ""
        await _append_last_with_text(x, event, text)
        await settlement.settle_entry(x, code, "ended before")
    except (DependencyAway, RedisFull):
        raise
    except Exception as error:  # noqa: BLE001  # its end can't be told (the key of its events is no stream, say)
        _log.exception("settlement.crashed", error=type(error).__name__, task_id=x.task.task_id)
        await settlement.dead_letter(x, Code.INTERNAL, f"its end can't be told: {type(error).__name__}")
    return CompletedAgain()


async def _append_last_with_text(x: Execution, end_event: EventDraft, text: str) -> None:
    """The end after what viewers lack of `text`, whoever ran the attempt.

    Redis may have been away when the result was committed, and that process may still be about to send its rest: the
    text that is there and the end are one compare-and-set, so nothing is doubled.
    """
    streams, attempt = x.deps.settlement, x.in_flight.event_attempt
    for _ in range(_LOOKS_MAX):
        streamed, seq = await x.until_available(lambda: streams.streamed_text(x.task, attempt), interruptible=False)
        lacking = text[len(streamed) :] if text.startswith(streamed) else ""
        drafts = [*([token_batch(lacking, Channel.TEXT)] if lacking else []), end_event]
        step = partial(streams.append_and_release, x.task, attempt, drafts, *x.in_flight.held, after=seq)
        appended = await x.until_available(step, interruptible=False)
        x.in_flight.released_permits()
        if not appended.overtaken:
            return
    raise RedisAway("Redis: somebody appended at every look; the entry stays pending")
