"""The one stretch of an attempt that may be interrupted from outside: the model call.

Whoever interrupts says why with an error; the call is cancelled and that error comes out of the scope. Outside of
the scope an interruption waits: a commit, an event or an ack is never torn apart.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class CallScope:
    """Entered around each model call of one attempt; may be entered again."""

    def __init__(self) -> None:
        self._task: asyncio.Task[object] | None = None
        self._error: Exception | None = None

    @property
    def interrupted(self) -> Exception | None:
        """Why the attempt should stop; None while it should not."""
        return self._error

    def interrupt(self, error: Exception) -> None:
        """Stop the model call, now or when it begins. The first reason wins; repeatable."""
        if self._error is None:
            self._error = error
            if self._task is not None:
                self._task.cancel()

    async def __aenter__(self) -> Self:
        if self._error is not None:
            raise self._error
        self._task = asyncio.current_task()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._error is None or task is None:
            return
        # Our own cancel is taken back; one from outside (the loop shutting down) is still counted and goes on.
        if task.uncancel() == 0:
            raise self._error from error
