"""Free slots of one queue in this process: what decides how much is read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Slots:
    """A bounded count with an awaitable "at least one is free". Not a semaphore: the reader takes many at once."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._used = 0
        self._closed = False
        self._changed = asyncio.Event()

    @property
    def total(self) -> int:
        """How many there are."""
        return self._total

    @property
    def used(self) -> int:
        """How many are taken."""
        return self._used

    @property
    def free(self) -> int:
        """How many may be taken now; never negative, also when `resize` went below what runs. Closed: none."""
        return 0 if self._closed else max(0, self._total - self._used)

    @property
    def closed(self) -> bool:
        """Whether nothing may be taken, however many are unused."""
        return self._closed

    def take(self, count: int = 1) -> None:
        """Take `count`; the caller looked at `free` in the same step of the loop."""
        self._used += count

    def give(self, count: int = 1) -> None:
        """Give `count` back."""
        self._used -= count
        self._changed.set()

    @contextmanager
    def reserved(self, count: int) -> Iterator[int]:
        """Take `count` for the time of the block; given back before the caller takes them one by one."""
        self.take(count)
        try:
            yield count
        finally:
            self.give(count)

    def resize(self, total: int) -> None:
        """Change the number; what runs goes on."""
        self._total = total
        self._changed.set()

    def close(self) -> None:
        """Nothing may be taken any more; what runs goes on. Repeatable."""
        self._closed = True

    def open(self) -> None:
        """What is unused may be taken again. Repeatable."""
        self._closed = False
        self._changed.set()

    def wake(self) -> None:
        """Let a waiter look again, for instance because the daemon is stopping."""
        self._changed.set()

    async def changed(self) -> None:
        """Return after the next change."""
        self._changed.clear()
        await self._changed.wait()
