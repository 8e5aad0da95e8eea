"""Deltas on their way to viewers: coalesced for each task, flushed for all tasks of the process in one pipeline.

One loop serves every attempt, so a thousand streams cost twenty flushes a second and not twenty thousand. A batch
whose reply was lost is sent again under its own nonce: never doubled, never reordered. Called through the
`Deltas` port.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from daemon.config import EventSettings
from daemon.domain.errors import RedisAway, RedisFull
from daemon.domain.events import Channel, EventDraft, token_batch
from daemon.domain.messages import TaskIdentity
from daemon.events.log import EventLog
from daemon.observability.logging import logger
from daemon.observability.metrics import Metrics
from daemon.ports import Appended
from daemon.redis_client.scripts import Call, Scripts

_log = logger(__name__)

#: between two flushes: whoever is due within it goes with the next one, so that a thousand writers are not looked
#: through a thousand times an interval
_GRAIN_S: Final = 0.005
#: tasks in one pipeline: bounds the time that one reply takes
_TASKS_A_FLUSH: Final = 256
#: how long the end of an attempt waits for a batch under way before its result is committed all the same
_FLUSH_S: Final = 1.0
#: pause after a failed flush; what was not sent waits in memory, bounded by the model's output
_PAUSE_S: Final = 0.2


class Writer:
    """The `DeltaWriter` of one attempt."""

    def __init__(self, deltas: Deltas, task: TaskIdentity, attempt: int, on_answer: Callable[[Appended], None]) -> None:
        self._deltas = deltas
        self.task = task
        self.attempt = attempt
        self.on_answer = on_answer
        self.last_flush = 0.0
        self.call: Call | None = None  # under way, or to be sent again under its nonce
        self.refused = False
        self._parts: list[tuple[Channel, list[str]]] = []
        self._bytes = 0
        self._first_at = 0.0
        self._idle = asyncio.Event()
        self._idle.set()

    def push(self, channel: Channel, text: str) -> None:
        """Take a delta; never waits."""
        if self.refused or not text:
            return
        if not self._parts:
            self._first_at = self._deltas.now()
        if self._parts and self._parts[-1][0] is channel:
            self._parts[-1][1].append(text)
        else:
            self._parts.append((channel, [text]))
        self._bytes += len(text) if text.isascii() else len(text.encode())
        self._deltas.wake(self)

    async def flush(self) -> None:
        """Send now what there is; what Redis does not take at once stays for `close`."""
        self._deltas.forget(self)
        with suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_S):
                while self.call is not None:  # the loop may have begun another when one ended
                    await self._idle.wait()
        if self.call is None and self._parts and not self.refused:
            await self._deltas.send(self)

    async def close(self) -> list[EventDraft]:
        """What was not sent yet, once the batch under way is known to be in."""
        self._deltas.forget(self)
        while self.call is not None and not self.refused:
            self._deltas.wake(self)
            await self._idle.wait()
        return [] if self.refused else self.take()

    def abandon(self) -> None:
        """Send nothing more: the attempt is not ours any more."""
        self.refused = True
        self._parts = []
        self._deltas.forget(self)

    def due(self, interval_s: float, bytes_max: int) -> float:
        """When to flush, on the loop's clock.

        50 ms after the first delta, sooner when there is much, never too often.
        """
        asked = self._first_at if self._bytes >= bytes_max else self._first_at + interval_s
        return max(asked, self.last_flush + interval_s)

    @property
    def waiting(self) -> bool:
        """Whether there is something to send."""
        return self.call is not None or bool(self._parts)

    def take(self) -> list[EventDraft]:
        """All buffered text as events; the buffer is empty afterwards."""
        drafts = [token_batch("".join(texts), channel) for channel, texts in self._parts]
        self._parts, self._bytes = [], 0
        return drafts

    def begin(self, call: Call) -> None:
        """A batch is under way."""
        self.call = call
        self._idle.clear()

    def end(self, appended: Appended | None) -> None:
        """Its answer came; None: it will never be accepted."""
        self.call = None
        self._idle.set()
        if appended is None or not appended.accepted:
            self.refused = True
            self._parts = []
        if appended is not None and (not appended.accepted or appended.cancel):
            self.on_answer(appended)


class Deltas:
    """The `Deltas`: `run` is its loop, to be started before the first attempt and stopped after the last."""

    def __init__(self, scripts: Scripts, events: EventLog, settings: EventSettings, metrics: Metrics) -> None:
        self._scripts = scripts
        self._events = events
        self._metrics = metrics
        # A hair over 50 ms: twenty of these, and the batch that comes with the end, still fit the promise of 20 a
        # second.
        self._interval_s = settings.flush_ms / 1000 * 1.06
        self._bytes_max = settings.flush_bytes
        self._dirty: dict[Writer, None] = {}
        self._wake = asyncio.Event()
        self.now = asyncio.get_running_loop().time

    def open(self, task: TaskIdentity, attempt: int, on_answer: Callable[[Appended], None]) -> Writer:
        """A writer for one attempt."""
        return Writer(self, task, attempt, on_answer)

    def wake(self, writer: Writer) -> None:
        """The writer has something to send."""
        self._dirty[writer] = None
        self._wake.set()

    def forget(self, writer: Writer) -> None:
        """The writer sends its rest itself."""
        if writer.call is None:
            self._dirty.pop(writer, None)

    async def run(self) -> None:
        """Flush until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._dirty:
                await self._tick()

    async def send(self, writer: Writer) -> None:
        """Flush this writer alone, now; a batch that did not get through goes on under its nonce."""
        if not await self._flush([writer], self.now()):
            self.wake(writer)

    async def _tick(self) -> None:
        now = self.now()
        dues = [(w.due(self._interval_s, self._bytes_max) if w.call is None else 0.0, w) for w in self._dirty]
        ripe = [w for due, w in dues if due <= now][:_TASKS_A_FLUSH]
        if not ripe:
            # A delta that comes meanwhile is due later than this, so nobody needs to wake us: a wake a token would
            # cost a scan each.
            await asyncio.sleep(max(min(due for due, _ in dues) - now, _GRAIN_S))
            return
        if not await self._flush(ripe, now):
            await asyncio.sleep(_PAUSE_S)

    async def _flush(self, writers: list[Writer], now: float) -> bool:
        for w in writers:
            if w.call is None:
                w.begin(self._events.append_call(w.task, w.attempt, w.take()))
            w.last_flush = now
        self._metrics.event_flushes.inc()
        try:
            replies = await self._scripts.run_each([w.call for w in writers if w.call is not None])
        except (RedisAway, RedisFull) as error:
            _log.warning("deltas.flush_failed", error=type(error).__name__, tasks=len(writers))
            return False
        again = False
        for w, reply in zip(writers, replies, strict=True):
            if isinstance(reply, RedisAway | RedisFull):
                again = True
                continue
            if isinstance(reply, Exception):
                _log.error("deltas.refused", error=type(reply).__name__, task_id=w.task.task_id)
            w.end(None if isinstance(reply, Exception) else EventLog.appended(reply))
            if not w.waiting:
                self._dirty.pop(w, None)
        return not again
