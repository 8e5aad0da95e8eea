"""The end of a task as the ledger knows it, for viewers whose stream has lost or forgotten it.

One statement in `LOOK_S` asks about all watched tasks that have been silent for a while, however many viewers there
are. An end made from the row carries no id (it is in no stream) and the highest `seq`.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final

import msgspec

from daemon.domain.errors import QstreamdError
from daemon.domain.messages import CONTRACT_VERSION
from daemon.domain.states import TERMINAL
from daemon.events.fan_out import FanOut
from daemon.events.stored_event import StoredEvent
from daemon.gateway.lost_rows import LostRows
from daemon.observability.logging import logger
from daemon.pipeline.attempt_events import ended_event
from daemon.ports import AlreadyEnded, Clock, StoredResult
from daemon.store.records import TaskRecords, TaskRow

_log = logger("gateway")

LOOK_S: Final = 5.0
SILENT_S: Final = 10.0  #: the event follows the commit within milliseconds; after so long it is lost
SEQ_LAST: Final = 2**31 - 1
ASKED_MAX: Final = 5000  #: tasks in one statement


class TerminalRecovery:
    """Asks the ledger. `run` is its loop."""

    def __init__(self, records: TaskRecords, lost_rows: LostRows, clock: Clock) -> None:
        self._records = records
        self._lost_rows = lost_rows
        self._clock = clock

    async def of(self, task_id: str) -> StoredEvent | None:
        """The terminal event of a task that has ended; None when it has not, or the ledger does not answer."""
        try:
            ended = await self._records.ended([task_id])
        except QstreamdError as error:
            _log.warning("results.unavailable", error=type(error).__name__)
            return None
        return self.entry(*ended[0]) if ended else None

    async def run(self, fan_out: FanOut) -> None:
        """Tell the viewers of silent tasks when the ledger says that they have ended; until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S * random.uniform(0.8, 1.0))
            await self._write_back(fan_out)
            silent = fan_out.silent(SILENT_S)
            for at in range(0, len(silent), ASKED_MAX):
                try:
                    ended = await self._records.ended(silent[at : at + ASKED_MAX])
                except QstreamdError as error:
                    _log.warning("results.unavailable", error=type(error).__name__)
                    break
                for row, result in ended:
                    if (row.finished_at or 0.0) < self._clock.time() - SILENT_S:
                        fan_out.tell(row.task_id, [self.entry(row, result)])

    async def _write_back(self, fan_out: FanOut) -> None:
        """Of tasks whose viewers found `done` in the stream: those that have no row get it back."""
        done, fan_out.done = list(fan_out.done)[:ASKED_MAX], set()
        try:
            for task_id in (set(done) - (await self._records.over(done)).keys()) if done else ():
                await self._lost_rows.restore(task_id)
        except QstreamdError as error:
            _log.warning("results.unavailable", error=type(error).__name__)

    def entry(self, row: TaskRow, result: StoredResult | None) -> StoredEvent:
        """The terminal event made again from a row that has ended."""
        if row.state not in TERMINAL:
            raise ValueError(f"{row.task_id} is {row.state}")
        draft = ended_event(row.task_id, AlreadyEnded(row.state, row.attempt, row.error_code, result))
        data = {
            "v": CONTRACT_VERSION, "type": draft.type, "taskId": row.task_id, "attempt": row.attempt, "seq": SEQ_LAST,
            "requestId": row.request_id, "traceId": row.trace_id, "timestamp": row.finished_at or row.heartbeat_at,
            **draft.fields,
        }  # fmt: skip
        return StoredEvent("", draft.type, msgspec.json.encode(data), terminal=True)
