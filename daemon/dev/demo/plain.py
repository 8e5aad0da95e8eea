"""The view for pipes, logs and CI: one line for each change, and one for each line of text that is complete."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Self

from daemon.dev.demo.screen import REASONS, wrapped
from daemon.dev.demo.watching import Phase, Watched
from daemon.domain.events import Event, EventType

TEXT_WIDTH: Final = 84


class PlainScreen:
    """A `Screen` that writes lines: seconds since the start, task, what happened."""

    def __init__(self, write: Callable[[str], None], began: float) -> None:
        self._write = write
        self._began = began
        self._shown: dict[tuple[str, int], int] = {}  # (task, attempt) -> lines of its text already written

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def part(self, name: str, detail: str, took_s: float | None) -> None:
        """One line when it is ready."""
        if took_s is not None:
            self._say(name, f"ready      {detail}")

    def asked(self, task: Watched) -> None:
        """One line."""
        self._say(task.order.name, f"published  {task.order.queue}, {task.order.service}: {task.order.about}")

    def happened(self, task: Watched, event: Event) -> None:
        """One line for what changed; text as far as its lines are complete."""
        if event.type is EventType.TOKEN_BATCH:
            self._text(task, whole=False)
            return
        self._text(task, whole=True)
        said = _said(task, event)
        if said:
            self._say(task.order.name, said)

    def _say(self, name: str, what: str) -> None:
        self._write(f"{time.monotonic() - self._began:5.1f}  {name:<12} {what}")

    def _text(self, task: Watched, *, whole: bool) -> None:
        """The lines that are new; of unfinished text all but the last, which may still grow."""
        key = (task.task_id, task.attempt)
        begin = self._shown.get(key, 0)
        lines = wrapped(task.text, TEXT_WIDTH)
        full = lines if whole or task.text.endswith("\n") else lines[:-1]
        for line in full[begin:]:
            self._say(task.order.name, f"| {line}")
        self._shown[key] = max(begin, len(full))


def _said(task: Watched, event: Event) -> str:
    data = event.data
    match event.type:
        case EventType.QUEUED:
            return "queued     accepted by the relay"
        case EventType.STARTED:
            return f"started    attempt {task.attempt}, {task.model}"
        case EventType.PROGRESS:
            return f"waits      {REASONS.get(task.note, task.note)}" if task.phase is Phase.WAITING else ""
        case EventType.DONE:
            used = data["usage"]["outputTokens"]
            return f"done       {task.duration_s:.1f} s, {used} tokens"
        case EventType.ERROR if event.terminal:
            return f"failed     {task.code}: {task.note}"
        case EventType.ERROR:
            again_s = max(0.0, task.retry_at - float(data["timestamp"]))
            return f"retry      attempt {task.attempt}: {task.note}; again in {again_s:.1f} s"
        case _:
            return ""
