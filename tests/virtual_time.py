"""Time that passes only when everybody sleeps: seconds of timers in microseconds, and exact.

`@in_virtual_time` turns an async test without sockets into a plain one on a loop whose clock jumps to the next timer as
soon as nothing else can run. A test in which everybody waits for everybody else fails at once instead of hanging.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

P = ParamSpec("P")


class _Jumping(selectors.DefaultSelector):
    """Never waits: what the loop would have slept is added to its clock."""

    now = 1_000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("everybody waits, and no timer will wake anybody")
        if not ready and timeout is not None and timeout > 0:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that owns its time."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds, from 1000."""
        return self._jumping.now


class LoopClock:
    """The `Clock` port on the running loop's time."""

    def time(self) -> float:
        """As if the loop had begun in 2023."""
        return 1_700_000_000.0 + self.monotonic()

    def monotonic(self) -> float:
        """The loop's own time."""
        return asyncio.get_running_loop().time()


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run this test on a loop of its own whose time jumps."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


async def elapsed(work: Coroutine[Any, Any, Any]) -> float:
    """Seconds of loop time until `work` has ended, well or badly."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.gather(work, return_exceptions=True)
    return loop.time() - began
