"""One task as a front end sees it: its events, folded. Pure; says where the stream broke a promise of the protocol."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from daemon.dev.demo.orders import Order
from daemon.domain.events import Event, EventType, Reason
from daemon.domain.messages import content_sha256

_WORD: Final = re.compile(r"[\u3400-\u9fff]|[^\s\u3000-\u9fff\uff00-\uffef]+")


class Phase(StrEnum):
    """Where a task stands in the viewer's eyes."""

    ASKED = "asked"
    QUEUED = "queued"
    WAITING = "waiting"
    RUNNING = "running"
    RETRYING = "retrying"
    DONE = "done"
    FAILED = "failed"


@dataclass(slots=True)
class Watched:
    """The state after the events so far. Times are unix seconds, as the events say; 0: not yet."""

    order: Order
    task_id: str
    phase: Phase = Phase.ASKED
    cursor: str = "0-0"
    attempt: int = 0
    model: str = ""
    text: str = ""  #: of this attempt only
    note: str = ""  #: why it waits, or how the attempt before ended
    code: str = ""
    retry_at: float = 0.0
    queued_at: float = 0.0
    started_at: float = 0.0
    attempt_at: float = 0.0
    first_token_at: float = 0.0
    ended_at: float = 0.0
    done: dict[str, Any] = field(default_factory=dict)  #: the fields of the `done` event
    broken: list[str] = field(default_factory=list)  #: promises that the stream did not keep
    _last: tuple[int, int] = (-1, -1)

    @property
    def ended(self) -> bool:
        """No event follows."""
        return self.phase in (Phase.DONE, Phase.FAILED)

    @property
    def streams(self) -> bool:
        """Whether its text is watched while it is written."""
        return "stream" in self.order.queue

    @property
    def words(self) -> int:
        """How much of the answer is there; each character counts where no spaces part words."""
        return len(_WORD.findall(self.text))

    @property
    def wait_s(self) -> float:
        """From accepted to its first start, or to an end without one."""
        return (self.started_at or self.ended_at) - self.queued_at

    @property
    def first_token_s(self) -> float | None:
        """From the start of the last attempt to its first text; None for what does not stream."""
        return self.first_token_at - self.attempt_at if self.first_token_at else None

    @property
    def duration_s(self) -> float:
        """From its first start to the end, waits for a retry included."""
        return self.ended_at - self.started_at if self.started_at else 0.0

    @property
    def result_ref(self) -> str | None:
        """Where its result lies: `db:result:` and the task id; None without a result."""
        return self.done.get("resultRef")

    def apply(self, event: Event) -> None:
        """Take one event in, in stream order."""
        data, at = event.data, float(event.data["timestamp"])
        self._check(event)
        self.cursor = event.id
        match event.type:
            case EventType.QUEUED:
                self.phase, self.queued_at = Phase.QUEUED, at
            case EventType.STARTED:
                self._start(data, at)
            case EventType.PROGRESS:
                if data.get("reason", Reason.RETRY_AT) != Reason.RETRY_AT:  # the error before it said that already
                    self.phase, self.note = Phase.WAITING, str(data["reason"])
            case EventType.TOKEN_BATCH:
                if data["channel"] == "text":
                    self.first_token_at = self.first_token_at or at
                    self.text += data["delta"]
            case EventType.DONE:
                self.phase, self.ended_at, self.done = Phase.DONE, at, data
                if self.streams and data["contentSha256"] != content_sha256(self.text):
                    self.broken.append("the deltas are not what contentSha256 names")
            case EventType.ERROR:
                self._fail(event, at)

    def _start(self, data: dict[str, Any], at: float) -> None:
        self.phase, self.attempt, self.model = Phase.RUNNING, data["attempt"], data["modelId"]
        self.started_at, self.attempt_at = self.started_at or at, at
        self.text, self.first_token_at, self.retry_at = "", 0.0, 0.0

    def _fail(self, event: Event, at: float) -> None:
        self.code = str(event.data["code"])
        if event.terminal:
            self.phase, self.ended_at, self.note = Phase.FAILED, at, str(event.data["message"])
        else:
            self.phase, self.retry_at = Phase.RETRYING, float(event.data.get("retryAt", at))
            self.note = f"{self.code} after {self.words} word{'s' * (self.words != 1)}"

    def _check(self, event: Event) -> None:
        """What protocol 5 promises of the order."""
        attempt, seq = int(event.data["attempt"]), int(event.data["seq"])
        before, self._last = self._last, (attempt, seq)
        if self.ended:
            self.broken.append(f"{event.type} after the end")
        elif before == (-1, -1):
            if (event.type, attempt, seq) != (EventType.QUEUED, 0, 0):
                self.broken.append(f"the first event is {event.type} {attempt}:{seq}, not queued 0:0")
        elif attempt < before[0] or (attempt == before[0] and seq != before[1] + 1):
            self.broken.append(f"{attempt}:{seq} follows {before[0]}:{before[1]}")
        elif attempt > before[0] and seq != 1:
            self.broken.append(f"attempt {attempt} begins at seq {seq}, not 1")
