"""When the mover looks at a queue: no task may sleep because somebody was looking just then."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

import pytest

from daemon.config import RetrySettings
from daemon.domain.errors import RedisAway
from daemon.observability.metrics import Metrics
from daemon.queues.streams import WorkStreams
from daemon.worker.retry_scheduler import RetryScheduler
from tests.waiting import WaitUntil

Reply = tuple[int, float | None, Sequence[str]]


class SlowWork:
    """Answers `promote` from a list, each time only after `go`; then it knows of nothing."""

    def __init__(self, *replies: Reply | Exception) -> None:
        self._replies = list(replies)
        self.asked = 0
        self.go = asyncio.Event()

    async def promote(self, queue: str, batch: int) -> Reply:
        self.asked += 1
        await self.go.wait()
        reply = self._replies.pop(0) if self._replies else (0, None, ())
        if isinstance(reply, Exception):
            raise reply
        return reply


async def never(queue: str, ids: Sequence[str]) -> None:
    raise AssertionError(f"nothing is lost here: {queue} {ids}")


@pytest.mark.parametrize("first", [(0, None, ()), (0, 60.0, ()), RedisAway("away")], ids=["empty", "later", "away"])
async def test_a_task_parked_while_the_mover_looks_is_moved_when_it_is_due(
    first: Reply | Exception, wait_until: WaitUntil
) -> None:
    """The answer was made before the task was there, so it says nothing about it."""
    work = SlowWork(first)
    mover = RetryScheduler(cast("WorkStreams", work), ["q"], RetrySettings(), Metrics(), never)
    running = asyncio.get_running_loop().create_task(mover.run())
    try:
        await wait_until(lambda: work.asked, description="it looks")
        mover.snoozed("q", 0.05)
        work.go.set()
        began = asyncio.get_running_loop().time()
        await wait_until(lambda: work.asked > 1, description="it looks again")
        assert asyncio.get_running_loop().time() - began < 0.4  # not the 0.5 s and more of another try after "away"
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
