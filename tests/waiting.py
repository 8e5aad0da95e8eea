"""Waiting for facts: the only way a test lets time pass."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar, overload

T = TypeVar("T")

#: Two suites share two cores with whoever else is there: a deadline says that something never came, not how quick
#: it was. What has to be quick is measured by the test itself.
PATIENCE = 3


class WaitUntil(Protocol):
    """The type of the fixture `wait_until`."""

    @overload
    async def __call__(
        self, predicate: Callable[..., Awaitable[T | None]], *, description: str, within_s: float = 5
    ) -> T: ...
    @overload
    async def __call__(self, predicate: Callable[..., T | None], *, description: str, within_s: float = 5) -> T: ...


async def _wait_until(predicate: Callable[[], Any], *, description: str, within_s: float = 5) -> Any:
    """The first true answer of `predicate` (plain or async); an AssertionError with the last one when time is up.

    Time is up after `within_s`, three times over on a busy machine. What `predicate` raises goes to the caller at once.
    It is asked every few milliseconds, more rarely as time passes.
    """
    deadline = time.monotonic() + within_s * PATIENCE
    pause_s = 0.002
    while True:
        seen = predicate()
        if inspect.isawaitable(seen):
            seen = await seen
        if seen:
            return seen
        left = deadline - time.monotonic()
        if left <= 0:
            raise AssertionError(f"not within {within_s * PATIENCE:g} s: {description}; last seen: {seen!r}")
        await asyncio.sleep(min(pause_s, left))
        pause_s = min(pause_s * 1.5, 0.05)


wait_until: WaitUntil = _wait_until
