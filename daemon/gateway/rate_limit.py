"""How often somebody may do something: a bucket for each name, in this process.

Buckets that are full again are forgotten, so that a flood of names costs no more memory than `NAMES_MAX` of them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from daemon.ports import Clock

NAMES_MAX: Final = 10_000


class RateLimiter:
    """`per_minute` calls in the long run, at most `burst` at once."""

    def __init__(self, clock: Clock, per_minute: float, burst: float) -> None:
        self._clock = clock
        self._per_s = per_minute / 60
        self._burst = max(1.0, burst)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # name -> (tokens, when)

    def wait_s(self, name: str, cost: float = 1.0) -> float:
        """0.0 and the call is counted, or the seconds until the next may come."""
        left = self.left(name)
        if left < cost:
            return (cost - left) / self._per_s
        self._buckets[name] = (left - cost, self._clock.monotonic())
        self._buckets.move_to_end(name)
        while len(self._buckets) > NAMES_MAX:
            self._buckets.popitem(last=False)
        return 0.0

    def left(self, name: str) -> float:
        """How many calls may come now."""
        tokens, then = self._buckets.get(name, (self._burst, 0.0))
        if name not in self._buckets:
            return tokens
        return min(self._burst, tokens + (self._clock.monotonic() - then) * self._per_s)
