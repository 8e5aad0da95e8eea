"""Work that is finished although its caller left: a handler is cancelled with its connection, this is not."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class ShieldedTasks:
    """Keeps what is under way; `wait` at a stop lets it come to its end."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The answer of `work`. When the caller is cancelled, `work` goes on."""
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    async def wait(self, limit_s: float) -> None:
        """Until all is done, or the limit; what is left then is cancelled."""
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=limit_s)
            for task in late:
                task.cancel()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # looked at: its caller may have left before it could be told
