"""How many lines of one event may be written: a storm is counted, not printed.

An outage of Redis makes thousands of equal lines, and journald then drops others with them. Each event has a bucket;
what did not fit is named by the next line that does. Called by `logging` alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

PER_S: Final = 10.0  #: lines of one event, on average
BURST: Final = 100.0  #: at once: a daemon that starts, drains or loses all its tasks says everything
EXEMPT: Final = frozenset({"attempt.ended"})  #: one line an attempt is the record: never left out


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float
    left_out: int = 0


class LogRates:
    """The buckets of one process; event names are constants, so there are few."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._buckets: dict[str, _Bucket] = {}

    def admit(self, event: str) -> int | None:
        """How many lines of `event` were left out since the last one; None when this one is left out, too."""
        if event in EXEMPT:
            return 0
        now = self._now()
        bucket = self._buckets.setdefault(event, _Bucket(BURST, now))
        bucket.tokens = min(BURST, bucket.tokens + (now - bucket.at) * PER_S)
        bucket.at = now
        if bucket.tokens < 1:
            bucket.left_out += 1
            return None
        bucket.tokens -= 1
        left_out, bucket.left_out = bucket.left_out, 0
        return left_out
