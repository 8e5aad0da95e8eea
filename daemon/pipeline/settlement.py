"""The tails: every way in which a delivery leaves this process, in the order of the law.

Each function may be repeated from its beginning after a crash at any point: the row is already what it should be,
the event is refused or accepted once, a released place stays released, and an entry that is not ours any more is
left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

from daemon.domain.errors import Code, DependencyAway, LeaseLost, RedisFull
from daemon.domain.events import Channel, EventDraft, token_batch
from daemon.domain.messages import TaskIdentity
from daemon.domain.states import State
from daemon.pipeline.attempt_events import given_back_event
from daemon.pipeline.dependencies import World
from daemon.pipeline.in_flight import Hold
from daemon.pipeline.outcome import Abandoned, Fenced, HandedBack, Outcome
from daemon.pipeline.retry_while_unavailable import Patience
from daemon.ports import Ahead, Ending

#: handing back happens in a hurry: longer, and the entry is left to be found by its lease
_GIVE_BACK_S: Final = 5.0
#: the task is over and its viewer knows: a store that is slow now is left to the sweep
_DROP_S: Final = 3.0
#: how often the rest of a text is looked for; each further look means that somebody appended in between
_LOOKS_MAX: Final = 5


def terminal_state(code: Code) -> State:
    """The state of a task that ends with `code`."""
    return {Code.EXPIRED: State.EXPIRED, Code.CANCELLED: State.CANCELLED}.get(code, State.FAILED)


class Cleanup:
    """The tails of one delivery."""

    def __init__(self, world: World, hold: Hold, patience: Patience) -> None:
        self._world = world
        self._hold = hold
        self._patience = patience

    async def conclude(self, task: TaskIdentity, drafts: Sequence[EventDraft], *, heed: bool) -> None:
        """Last events and release of the guards, one flush.

        Without events it only releases; without either it does nothing.
        """
        hold = self._hold
        # -1: an attempt that Postgres did not give us speaks as whatever attempt the stream saw last.
        attempt = -1 if hold.attempt is None else hold.attempt
        if drafts:
            await self._patience.of(
                lambda: self._world.tail.conclude(task, attempt, drafts, hold.member, hold.places, hold.report),
                heed=heed,
            )
        elif hold.places:
            await self._patience.of(
                lambda: self._world.guards.release(hold.member, hold.places, hold.report), heed=heed
            )
        hold.member, hold.places, hold.report = "", (), None

    async def conclude_again(self, task: TaskIdentity, attempt: int, end: EventDraft, text: str) -> None:
        """The end of a task whose last process could not say it, after what viewers lack of its text.

        Redis may have been away when the result was committed, and that process may still be about to send its rest:
        the text that is there and the end are one compare-and-set, so nothing is doubled.
        """
        tail, hold = self._world.tail, self._hold
        for _ in range(_LOOKS_MAX if text else 0):
            told, seq = await self._patience.of(lambda: tail.told(task, attempt), heed=False)
            lacking = text[len(told) :] if text.startswith(told) else ""
            drafts = [*([token_batch(lacking, Channel.TEXT)] if lacking else []), end]
            step = partial(tail.conclude, task, attempt, drafts, hold.member, hold.places, hold.report, after=seq)
            appended = await self._patience.of(step, heed=False)
            hold.member, hold.places, hold.report = "", (), None
            if not appended.overtaken:
                return
        await self.conclude(task, [end], heed=False)

    async def ack(self, *, whole_task: bool = True) -> None:
        """The entry is settled; nothing of it is beaten for any more."""
        if whole_task:
            await self._drop_blobs()
        await self._patience.of(lambda: self._world.tail.ack(self._hold.delivery, whole_task=whole_task), heed=False)
        self._hold.settled = True

    async def dead_letter(
        self, code: Code, reason: str, *, whole_task: bool = True, with_blobs: bool | None = None
    ) -> None:
        """The entry is settled and a letter without content lies in `:dead`. Blobs go with the task if not said."""
        d, attempts = self._hold.delivery, self._hold.attempt or 0
        if whole_task if with_blobs is None else with_blobs:
            await self._drop_blobs()
        await self._patience.of(
            lambda: self._world.tail.dead_letter(d, code=code, reason=reason, attempts=attempts, whole_task=whole_task),
            heed=False,
        )
        self._hold.settled = True

    async def _drop_blobs(self) -> None:
        """The images go after the terminal event and before the ack: a crash in between repeats this tail."""
        entry = self._hold.delivery.entry
        if entry is None or not self._hold.blobs:
            return
        try:
            async with asyncio.timeout(_DROP_S):
                await self._world.blobs.drop(self._hold.blobs, entry.message.user_id)
        except (DependencyAway, TimeoutError) as error:
            self._hold.trace.blobs_left = str(error) or type(error).__name__

    async def end(self, task: TaskIdentity, drafts: Sequence[EventDraft], code: Code, reason: str) -> None:
        """The tail of a task that ended badly. A cancelled one leaves no dead letter: that is what its user wanted."""
        await self.conclude(task, drafts, heed=False)
        if code is Code.CANCELLED:
            await self.ack()
        else:
            await self.dead_letter(code, reason)

    async def park(
        self,
        task: TaskIdentity,
        drafts: Sequence[EventDraft],
        delay_s: float,
        *,
        reason: str,
        since_ms: int = 0,
        wakeable: bool = False,
    ) -> None:
        """The tail of a task that waits. Its row has left `running` before."""
        await self.conclude(task, drafts, heed=False)
        due_in_ms = max(1, int(delay_s * 1000))
        await self._patience.of(
            lambda: self._world.tail.park(
                self._hold.delivery, due_in_ms, reason=reason, waiting_since_ms=since_ms, wakeable=wakeable
            )
        )
        self._hold.settled = True

    async def lay_aside(self, ahead: Ahead) -> bool:
        """Leave an entry of a newer release to a newer daemon.

        False once that has been tried for as long as a guard's wait.
        """
        world, d = self._world, self._hold.delivery
        waited_s = world.clock.time() - ahead.since_ms / 1000 if ahead.since_ms else 0.0
        if waited_s > world.guard_settings.wait_max_s:
            return False
        await self._patience.of(lambda: world.tail.lay_aside(d, ahead, int(world.retry.cap_s * 1000)))
        self._hold.settled = True
        return True

    async def drop(self, task: TaskIdentity, *, foreign: str = "") -> None:
        """Settle an entry that has no say about its task.

        A duplicate, or (`foreign`) another body under the same id.
        """
        await self.conclude(task, (), heed=False)
        if foreign:
            # It was accepted and will never start: its place goes back. Images may be those of the task it names.
            await self.dead_letter(Code.INVALID_PAYLOAD, foreign, with_blobs=False)
        else:
            await self.ack(whole_task=False)

    async def give_back(self, task: TaskIdentity, why: Exception) -> Outcome:
        """Let another daemon have it, if it is still ours to give.

        No failure is counted; in a hurry, since a lease may be over.
        """
        hold = self._hold
        outcome = "fenced" if isinstance(why, LeaseLost) else "handed_back"
        try:
            async with asyncio.timeout(_GIVE_BACK_S):
                if hold.attempt is not None:
                    ending = Ending(State.QUEUED, None, outcome, model_id=hold.trace.model_id or None)
                    if not await self._world.ledger.leave(task.task_id, hold.attempt, ending):
                        await self.conclude(task, (), heed=False)
                        return Fenced()
                else:
                    # A claim whose reply was lost may have said `running` by this entry, which is about to move.
                    await self._world.ledger.let_go(task.task_id, hold.delivery.entry_id, self._world.lease.lease_s)
                await self.conclude(task, [given_back_event()] if hold.attempt is not None else (), heed=False)
                moved = await self._world.tail.hand_back(hold.delivery)
        except (DependencyAway, RedisFull, TimeoutError) as error:
            return Abandoned(type(error).__name__)
        hold.settled = True
        return HandedBack() if moved else Fenced()
