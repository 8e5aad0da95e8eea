"""The time that the fake QStash lives by: real, sped up, or standing still until a test moves it.

Retries, delays, deduplication windows and rates use this clock. Signatures and response timeouts never do:
the receiver at the other end lives in real time and would refuse a token from the future.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time

_TOLERANCE_S = 1e-6  # unix seconds as floats are exact to about 2.4e-7


class Clock:
    """Unix seconds that pass `speed` times as fast as real ones; with speed 0 they pass only through `advance_to`."""

    def __init__(self, speed: float = 1.0, *, start: float | None = None) -> None:
        if not 0 <= speed <= 1e9:
            raise ValueError(f"speed must be 0 to 1e9, not {speed}")
        self.speed = speed
        self._base = time.time() if start is None else start
        self._anchor = time.monotonic()
        self._timers: list[tuple[float, int, asyncio.Future[object]]] = []
        self._numbers = itertools.count()
        self._alarm: asyncio.TimerHandle | None = None

    def now(self) -> float:
        """Unix seconds on this clock."""
        return self._base + (time.monotonic() - self._anchor) * self.speed

    def timer(self, when: float) -> asyncio.Future[object]:
        """A future that is done once this clock reads `when` (unix seconds); cancelling it is allowed."""
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._timers, (when, next(self._numbers), future))
        self._fire()
        return future

    def next_due(self) -> float | None:
        """When the earliest timer that somebody still waits for is due; None if there is none."""
        while self._timers and self._timers[0][2].done():
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def advance_to(self, when: float) -> None:
        """Jump forward to `when` (never back) and let what is due by then happen, earliest first."""
        self._base += max(0.0, when - self.now())
        self._fire()

    def close(self) -> None:
        """No timer fires any more. May be called twice."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None
        self._timers.clear()

    def _fire(self) -> None:
        now = self.now() + _TOLERANCE_S
        while self._timers and self._timers[0][0] <= now:
            future = heapq.heappop(self._timers)[2]
            if not future.done():
                future.set_result(None)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        due = self.next_due()
        if due is not None and self.speed:
            wait_s = min((due - self.now()) / self.speed, 86400.0)  # a day is enough; the alarm sets itself again
            self._alarm = asyncio.get_running_loop().call_later(max(0.0, wait_s), self._fire)
