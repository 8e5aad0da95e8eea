"""For servers that answer a blocking read at once: how long to wait until the next one, so that nobody spins.

Some managed servers say that they block and do not. A read that came back empty long before its time is taken for that.
"""

from __future__ import annotations

from typing import Final

_FIRST_S: Final = 0.25


class Polling:
    """The pauses of one reader: they double while nothing comes, up to `most_s`."""

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._last_s = 0.0

    def pause_s(self, *, found: bool, asked_s: float, took_s: float) -> float:
        """Seconds to wait before the next read; 0 where the server blocked, or had something."""
        if found or took_s >= asked_s / 2:
            self._last_s = 0.0
        else:
            self._last_s = min(self._most_s, max(_FIRST_S, 2 * self._last_s))
        return self._last_s
