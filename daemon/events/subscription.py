"""One viewer of one task: history in pages, then live, nothing missed and nothing twice. The hub feeds it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Self

import msgspec

from daemon.events.stored_event import START, Cursor, EventBatch, StoredEvent, cursor_of

if TYPE_CHECKING:
    from daemon.events.fan_out import FanOut


class Subscription:
    """One viewer of one task: `open`, then `next` until `ended`. A context manager, so that nobody stays behind."""

    def __init__(self, fan_out: FanOut, task_id: str, after: str, queue_max: int) -> None:
        self.task_id = task_id
        self.ended = ""  #: "terminal", "slow", "closing"; "" while it goes on
        self.over = False  #: after `open`: the cursor is the terminal event itself, nothing will come
        self._fan_out = fan_out
        self._after = after
        #: takes a batch at once instead of the queue, when nothing waits in it; False: the viewer is too slow
        self.writer: Callable[[EventBatch], bool] | None = None
        self._queue_max = queue_max
        self._queue: deque[StoredEvent] = deque()
        self._wake = asyncio.Event()
        self._last: Cursor = cursor_of(after)
        #: the last event that it was shown, here or before it came; None: none yet
        self.last = None if after == START else StoredEvent(after, "", b"{}", at=self._last)
        self._live = False
        self._missing = False
        self._lost = False  # the stream is not there, and the viewer had seen some of it

    def __enter__(self) -> Self:
        self._fan_out.viewers.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._fan_out.leave(self)

    async def open(self) -> None:
        """Read the first page and judge the cursor; one round trip. Raises `RedisAway`."""
        first, tail, page = await self._fan_out.look(self.task_id, self._after)
        if tail is None:
            self._missing, self._lost, self._last = True, self._after != START, (0, 0)
            return
        self.over = tail.terminal and tail.id == self._after
        if self._after != START and first is not None:
            if self._last < first.at:
                self._queue.append(self._gap(first.id))
            elif self._last > tail.at:  # of another life of this Redis: say so and begin anew
                self._queue.append(self._gap(first.id))
                self._last = (0, 0)
                page = []
        self._take(page)

    async def next(self, timeout_s: float) -> list[StoredEvent]:
        """The next events in order; [] when none came in time, or when it `ended`. Raises `RedisAway`."""
        if self._missing:
            self._missing = False
            recover_end = await self._fan_out.recover_end(self.task_id)
            if recover_end is not None:
                self.push(EventBatch([recover_end]))
        while not self._live and not self._queue and not self.ended:
            await self._catch_up()
        if not self._queue and not self.ended:
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            except TimeoutError:
                return []
        return self._drained()

    def push(self, batch: EventBatch) -> None:
        """New events of the topic; those that the viewer has are passed over."""
        if self.ended:
            return
        at_once = batch.plain and not self._queue and not self._lost and self._last < batch.entries[0].at
        if at_once and self.writer is not None:
            self._write(self.writer, batch)
            return
        self._take(batch.entries)
        if len(self._queue) > self._queue_max:
            self.close("slow")
        self._wake.set()

    def close(self, why: str) -> None:
        """End it from outside; what was queued is dropped when it was too slow."""
        if not self.ended:
            self.ended = why
        if why == "slow":
            self._queue.clear()
        self._wake.set()

    def _write(self, writer: Callable[[EventBatch], bool], batch: EventBatch) -> None:
        self._last = batch.entries[-1].at
        if not writer(batch):
            self.close("slow")
        elif batch.terminal:
            self.close("terminal")

    def _take(self, entries: Iterable[StoredEvent]) -> None:
        for entry in entries:
            if entry.id:
                if entry.at <= self._last:
                    continue
                if self._lost:
                    self._lost = False
                    self._queue.append(self._gap(entry.id))
                self._last, self.last = entry.at, entry
            self._queue.append(entry)

    def _drained(self) -> list[StoredEvent]:
        entries = list(self._queue)
        self._queue.clear()
        for at, entry in enumerate(entries):
            if entry.terminal:
                self.ended = "terminal"
                return entries[: at + 1]
        return entries

    async def _catch_up(self) -> None:
        """One page of history, or the step from history to live.

        Live begins when all that the topic has read so far was read by us too: what it reads next is pushed to us.
        """
        known = self._fan_out.cursor(self.task_id)
        page, read, whole = await self._fan_out.page(self.task_id, self._last)
        self._take(page)
        self._last = max(self._last, read)
        if whole and not self.ended:
            self._live = self._fan_out.join(self, max(self._last, known or (0, 0)))

    def _gap(self, first: str) -> StoredEvent:
        data = {"type": "gap", "taskId": self.task_id, "first": first}
        return StoredEvent("", "gap", msgspec.json.encode(data))
