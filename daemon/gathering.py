"""Questions of many tasks that are asked together: whatever comes while an answer is under way goes with the next one.

Nothing waits for company: a lone question leaves in the same turn of the loop, so an idle process loses no time and a
busy one needs a fraction of the round trips. Knows nothing of servers; `stream` and `store` each say how to ask.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Gathering(Generic[Q, A]):
    """Asks `send` for at most `most` questions at a time, in the order they came, at most `lanes` times at once.

    `send` answers in order, an exception standing for the answer of one; what it raises is the answer of all of them.
    """

    def __init__(self, send: Callable[[list[Q]], Awaitable[Sequence[A | Exception]]], *, lanes: int, most: int) -> None:
        self._send = send
        self._lanes = lanes
        self._most = most
        self._waiting: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._soon = False
        self._under_way: set[asyncio.Task[None]] = set()

    async def ask(self, question: Q) -> A:
        """The answer to this one. Cancelled, nothing is known of it; the others' answers are not touched."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[A] = loop.create_future()
        self._waiting.append((question, answer))
        self._go_soon(loop)
        return await answer

    def _go_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        # At the end of this turn: all tasks that the last answer woke have asked by then.
        if not self._soon and self._waiting and len(self._under_way) < self._lanes:
            self._soon = True
            loop.call_soon(self._go, loop)

    def _go(self, loop: asyncio.AbstractEventLoop) -> None:
        self._soon = False
        batch: list[tuple[Q, asyncio.Future[A]]] = []
        while self._waiting and len(batch) < self._most:
            question, answer = self._waiting.popleft()
            if not answer.done():  # whoever asked was cancelled
                batch.append((question, answer))
        if batch:
            task = loop.create_task(self._answer(batch), name="gathering")
            self._under_way.add(task)
            task.add_done_callback(self._done)
        self._go_soon(loop)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._go_soon(task.get_loop())

    async def _answer(self, batch: list[tuple[Q, asyncio.Future[A]]]) -> None:
        try:
            answers = await self._send([question for question, _ in batch])
        except Exception as error:  # noqa: BLE001  # handed to those who asked
            answers = [error] * len(batch)
        except BaseException:
            for _, future in batch:
                future.cancel()
            raise
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
