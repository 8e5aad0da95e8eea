"""Questions of many tasks that are asked together: whatever comes while an answer is under way goes with the next one.

Nothing waits for company: a lone question leaves in the same turn of the loop, so an idle process loses no time and a
busy one needs a fraction of the round trips. Knows nothing of servers; `batched_scripts` and `store.batching` each say
how to ask.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class _Pending(Generic[Q, A]):
    """One question, its answer to come, and the sending that it travels with."""

    __slots__ = ("answer", "question", "sending")

    def __init__(self, question: Q, answer: asyncio.Future[A]) -> None:
        self.question = question
        self.answer = answer
        self.sending: _Sending[Q, A] | None = None


class _Sending(Generic[Q, A]):
    """Questions under way."""

    __slots__ = ("batch", "task")

    def __init__(self, batch: list[_Pending[Q, A]], task: asyncio.Task[None]) -> None:
        self.batch = batch
        self.task = task


class Batcher(Generic[Q, A]):
    """Asks `send` for at most `most` questions at a time, in the order they came, at most `lanes` times at once.

    `send` answers in order, an exception standing for the answer of one; what it raises is the answer of all of them.
    With `waits_when_cancelled`, a cancelled asker goes only when its question is no longer under way, so that whoever
    asks again is not overtaken by the first try; `send` bounds how long that takes.
    """

    def __init__(
        self,
        send: Callable[[list[Q]], Awaitable[Sequence[A | Exception]]],
        *,
        lanes: int,
        most: int,
        waits_when_cancelled: bool = False,
    ) -> None:
        self._send = send
        self._lanes = lanes
        self._most = most
        self._waits_when_cancelled = waits_when_cancelled
        self._waiting: deque[_Pending[Q, A]] = deque()
        self._soon = False
        self._under_way: set[asyncio.Task[None]] = set()

    async def ask(self, question: Q) -> A:
        """The answer to this one. Cancelled, nothing is known of it; the others' answers are not touched."""
        loop = asyncio.get_running_loop()
        asked: _Pending[Q, A] = _Pending(question, loop.create_future())
        self._waiting.append(asked)
        self._go_soon(loop)
        try:
            return await asked.answer
        except asyncio.CancelledError:
            if asked.sending is not None:
                await self._abandon(asked.sending)
            raise

    async def _abandon(self, sending: _Sending[Q, A]) -> None:
        if all(asked.answer.done() for asked in sending.batch):  # nobody is left to answer
            sending.task.cancel()
        if self._waits_when_cancelled:
            await asyncio.wait({sending.task})

    def _go_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        # At the end of this turn: all tasks that the last answer woke have asked by then.
        if not self._soon and self._waiting and len(self._under_way) < self._lanes:
            self._soon = True
            loop.call_soon(self._go, loop)

    def _go(self, loop: asyncio.AbstractEventLoop) -> None:
        self._soon = False
        batch: list[_Pending[Q, A]] = []
        while self._waiting and len(batch) < self._most:
            asked = self._waiting.popleft()
            if not asked.answer.done():  # whoever asked was cancelled
                batch.append(asked)
        if batch:
            task = loop.create_task(self._answer(batch), name="gathering")
            sending = _Sending(batch, task)
            for asked in batch:
                asked.sending = sending
            self._under_way.add(task)
            task.add_done_callback(self._done)
        self._go_soon(loop)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._go_soon(task.get_loop())

    async def _answer(self, batch: list[_Pending[Q, A]]) -> None:
        try:
            answers = await self._send([asked.question for asked in batch])
        except Exception as error:  # noqa: BLE001  # handed to those who asked
            answers = [error] * len(batch)
        except BaseException:
            for asked in batch:
                asked.answer.cancel()
            raise
        for asked, answer in zip(batch, answers, strict=True):
            if asked.answer.done():
                continue
            if isinstance(answer, Exception):
                asked.answer.set_exception(answer)
            else:
                asked.answer.set_result(answer)
