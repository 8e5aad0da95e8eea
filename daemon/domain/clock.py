"""The system's clock behind the `Clock` port: the only place that asks the time."""

from __future__ import annotations

import time


class SystemClock:
    """Wall time to store, and a monotonic time that counts suspended hours where the system can (Linux)."""

    def __init__(self) -> None:
        self._boottime = getattr(time, "CLOCK_BOOTTIME", None)

    def time(self) -> float:
        """Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds to subtract. MONOTONIC stops while a host is suspended; a lease does not, so BOOTTIME is used."""
        return time.clock_gettime(self._boottime) if self._boottime is not None else time.monotonic()
