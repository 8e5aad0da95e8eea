"""Repeat a step while its server is away. Every step may be repeated, so it does not matter what got through."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from daemon.domain.errors import RedisAway, RedisFull, StoreAway
from daemon.pipeline.call_scope import CallScope
from daemon.ports import Clock

T = TypeVar("T")

_PAUSE_S: Final = (0.05, 5.0)


async def retry_while_unavailable(
    step: Callable[[], Awaitable[T]], scope: CallScope | None, clock: Clock, limit_s: float
) -> T:
    """The answer of `step`, tried again for `limit_s` while Redis or Postgres is away or Redis is full.

    Raises the server's error when the limit has passed. An interruption of `scope` (lost lease, stop, cancel) ends the
    waiting with its own error; without a scope the step is too late to be stopped: its result is committed already.
    """
    since, pause = clock.monotonic(), _PAUSE_S[0]
    while True:
        try:
            return await step()
        except (StoreAway, RedisAway, RedisFull):
            if scope is not None and scope.interrupted is not None:
                raise scope.interrupted from None
            if clock.monotonic() - since > limit_s:
                raise
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(pause * 2, _PAUSE_S[1])
