"""A retry budget for each model: when a vendor is down, retries must not become most of its load.

At most a tenth of a model's calls in the last two minutes may be retries, and a few always may. A retry beyond that
is not dropped but waits the longest backoff. In memory of one process: every process that sees the trouble spends
its own tenth.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Final

WINDOW_S: Final = 120.0  #: longer than a call, else the calls that failed have left the window when they are counted
RETRY_SHARE: Final = 0.1
RETRIES_MIN: Final = 10  #: retries a window that need no share: a quiet model is no storm


class RetryBudget:
    """Counts calls and retries by model; `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._calls: defaultdict[str, deque[float]] = defaultdict(deque)
        self._retries: defaultdict[str, deque[float]] = defaultdict(deque)

    def record_call(self, model: str, now: float) -> None:
        """A call begins; counted at its start, since its end may be minutes away."""
        self._calls[model].append(now)

    def may_retry(self, model: str, now: float) -> bool:
        """Whether a retry is within the budget; if so it is counted."""
        calls, retries = self._fresh(self._calls[model], now), self._fresh(self._retries[model], now)
        if len(retries) >= max(RETRIES_MIN, RETRY_SHARE * len(calls)):
            return False
        retries.append(now)
        return True

    @staticmethod
    def _fresh(times: deque[float], now: float) -> deque[float]:
        while times and times[0] < now - WINDOW_S:
            times.popleft()
        return times
