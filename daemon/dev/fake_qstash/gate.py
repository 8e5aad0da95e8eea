"""Who may go now: first come, first served, so many at once, so many a period. For queues and flow control."""

from __future__ import annotations

import asyncio
from collections import deque

from daemon.dev.fake_qstash.clock import Clock

Ticket = asyncio.Future[object]


class Gate:
    """Lets tickets in, in the order in which they were drawn. `None` means no limit. Waits, never drops."""

    def __init__(self, clock: Clock, *, parallelism: int | None = None) -> None:
        self._clock = clock
        self._parallelism = parallelism
        self._rate: int | None = None
        self._period_s = 1.0
        self._period_start = 0.0
        self._period_count = 0
        self._waiting: deque[Ticket] = deque()
        self._inside: set[Ticket] = set()
        self._wake: asyncio.Future[object] | None = None

    def draw(self) -> Ticket:
        """A ticket: a future, done once it may go. Give it back with `leave`, also when it never went in."""
        ticket: Ticket = asyncio.get_running_loop().create_future()
        self._waiting.append(ticket)
        self._admit()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The ticket is used up; the next may go. May be called twice."""
        self._inside.discard(ticket)
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        self._admit()

    def limit(self, *, parallelism: int | None = None, rate: int | None = None, period_s: float = 1.0) -> None:
        """New limits; whoever may go by them goes at once."""
        self._parallelism, self._rate, self._period_s = parallelism, rate, period_s
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            if self._waiting[0].done():  # its owner was cancelled
                self._waiting.popleft()
                continue
            if self._parallelism is not None and len(self._inside) >= self._parallelism:
                return
            if not self._within_rate():
                return
            ticket = self._waiting.popleft()
            self._inside.add(ticket)
            ticket.set_result(True)

    def _within_rate(self) -> bool:
        now = self._clock.now()
        if self._rate is None:
            return True
        if now >= self._period_start + self._period_s:
            self._period_start, self._period_count = now, 0
        if self._period_count < self._rate:
            self._period_count += 1
            return True
        if self._wake is None or self._wake.done():
            self._wake = self._clock.timer(self._period_start + self._period_s)
            self._wake.add_done_callback(lambda _: self._admit())
        return False
