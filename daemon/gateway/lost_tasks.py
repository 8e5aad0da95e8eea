"""The end of tasks that are lost for good: accepted, never claimed, and then forgotten by Redis (FLUSHALL, a failover).

No row and no stream is left, so nobody else could tell their viewers. Asked is only about tasks whose viewers were
shown that they wait, and nothing since: one EXISTS for each in a comparison period, and one statement for those without
a stream.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

import msgspec

from daemon.domain.errors import Code, QstreamdError
from daemon.domain.events import Stage
from daemon.domain.messages import CONTRACT_VERSION
from daemon.events.fan_out import FanOut
from daemon.events.stored_event import StoredEvent
from daemon.gateway.terminal_recovery import SEQ_LAST
from daemon.observability.logging import logger
from daemon.pipeline.attempt_events import final_event
from daemon.ports import Clock
from daemon.store.records import TaskRecords

_log = logger("gateway")

PERIODS: Final = 2  #: without stream and row, then it is told; a daemon puts back within them what has a row
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


class LostTasks:
    """Compares what viewers wait for with Redis and the ledger, once in `compare_s`. `run` is its loop."""

    def __init__(
        self, fan_out: FanOut, records: TaskRecords, clock: Clock, *, compare_s: float, events_ttl_s: float
    ) -> None:
        self._fan_out = fan_out
        self._records = records
        self._clock = clock
        self._compare_s = compare_s
        self._events_ttl_s = events_ttl_s
        self._missing: dict[str, tuple[float, float]] = {}  # task -> monotonic times of the first and the latest look

    async def run(self) -> None:
        """Look until cancelled. A server that is away proves nothing: the next look asks again."""
        while True:
            await asyncio.sleep(self._compare_s * random.uniform(0.8, 1.0))
            try:
                await self._look()
            except QstreamdError as error:
                _log.warning("results.unavailable", error=type(error).__name__)

    async def _look(self) -> None:
        # Silent for a period, and not for so long that the stream has expired: then its absence says nothing.
        wall, now = self._clock.time(), self._clock.monotonic()
        shown = {
            task_id: event
            for task_id, event in self._fan_out.waiting().items()
            if self._compare_s <= wall - event.at[0] / 1000 < self._events_ttl_s
        }
        gone = await self._fan_out.without_stream(list(shown))
        lost = gone - (await self._records.over(sorted(gone))).keys() if gone else gone
        # One that polls is not always here: what was missing stays so until it is found, or not asked for any more.
        recent = now - 2 * PERIODS * self._compare_s
        kept = {t: times for t, times in self._missing.items() if times[1] > recent and (t in lost or t not in shown)}
        self._missing = kept | {task_id: (kept.get(task_id, (now, now))[0], now) for task_id in lost}
        for task_id in lost:
            if now - self._missing[task_id][0] >= PERIODS * self._compare_s:
                _log.warning("task.lost", task_id=task_id)
                self._fan_out.tell(task_id, [self._end(task_id, shown[task_id])])

    def _end(self, task_id: str, last: StoredEvent) -> StoredEvent:
        """The terminal event; it is in no stream, so it has no id."""
        draft, shown = final_event(Stage.QUEUE, Code.WORKER_LOST), _decode(last.data)
        data = {
            "v": CONTRACT_VERSION, "type": draft.type, "taskId": task_id, "attempt": shown.get("attempt", 0),
            "seq": SEQ_LAST, "requestId": shown.get("requestId", ""), "traceId": shown.get("traceId", ""),
            "timestamp": round(self._clock.time(), 3), **draft.fields,
        }  # fmt: skip
        return StoredEvent("", draft.type, msgspec.json.encode(data), terminal=True)
