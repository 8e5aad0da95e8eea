"""The three clocks of a model call: first token, between tokens, total.

Vendors' timeouts are re-armed by keep-alive comments, so only text counts here. One timer a call, re-armed lazily: a
token costs one assignment.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from daemon.domain.errors import Code, ProviderError
from daemon.pipeline.call_scope import CallScope


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. A batch call has no tokens to watch: only `total_s` applies to it."""

    first_token_s: float
    idle_s: float
    total_s: float


class TimeoutWatch:
    """Interrupts the scope with LLM_TIMEOUT when a limit passes; `with` it inside the scope."""

    def __init__(self, scope: CallScope, timeouts: Timeouts, *, streams: bool) -> None:
        self._scope = scope
        self._limits = timeouts
        self._streams = streams
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._began = self._last = self._loop.time()
        self._first = False

    def token(self) -> bool:
        """Text came. True for the first."""
        self._last = self._loop.time()
        if self._first:
            return False
        self._first = True
        if self._timer is not None:  # the pause between tokens may be due before the first token was
            self._timer.cancel()
            self._arm()
        return True

    def __enter__(self) -> Self:
        self._arm()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _due(self) -> tuple[float, str]:
        total = self._began + self._limits.total_s, f"no end within {self._limits.total_s:g} s"
        if not self._streams:
            return total
        if self._first:
            token = self._last + self._limits.idle_s, f"no token for {self._limits.idle_s:g} s"
        else:
            token = self._began + self._limits.first_token_s, f"no first token within {self._limits.first_token_s:g} s"
        return min(token, total)

    def _arm(self) -> None:
        self._timer = self._loop.call_at(self._due()[0], self._fire)

    def _fire(self) -> None:
        due, why = self._due()
        if due > self._loop.time():
            self._arm()
        else:
            self._scope.interrupt(ProviderError(code=Code.LLM_TIMEOUT, detail=why))
