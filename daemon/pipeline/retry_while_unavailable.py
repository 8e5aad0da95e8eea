"""Repeat a step while its server is away.

Everything that a step does may be repeated, so nobody has to know what got through.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from daemon.domain.errors import RedisAway, RedisFull, StoreAway
from daemon.pipeline.in_flight import Hold
from daemon.ports import Clock

T = TypeVar("T")

_PAUSE_S: Final = (0.05, 5.0)


class Patience:
    """The patience of one delivery: `limit_s` for each step."""

    def __init__(self, hold: Hold, clock: Clock, limit_s: float) -> None:
        self._hold = hold
        self._clock = clock
        self._limit_s = limit_s

    async def of(self, step: Callable[[], Awaitable[T]], *, heed: bool = True) -> T:
        """The step's answer, tried again while Redis or Postgres is away.

        Raises the server's error when the limit has passed. With `heed`, an interruption of the attempt (lost lease,
        stop, cancel) ends the waiting with its own error; without, the step is too late to be stopped: its result is
        already committed.
        """
        since, pause = self._clock.monotonic(), _PAUSE_S[0]
        while True:
            try:
                return await step()
            except (StoreAway, RedisAway, RedisFull):
                if heed and self._hold.scope.interrupted is not None:
                    raise self._hold.scope.interrupted from None
                if self._clock.monotonic() - since > self._limit_s:
                    raise
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, _PAUSE_S[1])
