"""The live view: one line a task, with the end of its text below it while it streams. Drawn twelve times a second."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, Self

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from daemon.dev.demo.watching import Phase, Watched
from daemon.domain.events import Event

FRAMES: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
FRAMES_PER_S: Final = 12
TAIL_LINES_MAX: Final = 4
WAY: Final = "QStash → relay → Redis → daemon → model → Postgres"
_UNIT: Final = re.compile(r"\s+|[\u3000-\u9fff\uff00-\uffef]|[^\s\u3000-\u9fff\uff00-\uffef]+")
_MARKS: Final = {
    Phase.ASKED: ("·", "dim"), Phase.QUEUED: ("○", "dim"), Phase.WAITING: ("◌", "yellow"),
    Phase.RETRYING: ("↻", "yellow"), Phase.DONE: ("✓", "green"), Phase.FAILED: ("✗", "bold red"),
}  # fmt: skip
#: why a task waits, for people
REASONS: Final = {
    "GUARD_USER": "this user's other task has to end first",
    "GUARD_MODEL": "the model is busy",
    "RATE_LIMITED": "the model is closed for a moment",
}


class Screen(Protocol):
    """What shows the demo. A context manager that holds the terminal."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

    def part(self, name: str, detail: str, took_s: float | None) -> None:
        """A part of the world starts (`took_s` None) or is ready."""

    def asked(self, task: Watched) -> None:
        """A task was published."""

    def happened(self, task: Watched, event: Event) -> None:
        """An event was read and taken into `task`."""


@dataclass(slots=True)
class Board:
    """What the live view draws."""

    began: float
    parts: dict[str, tuple[str, float | None]] = field(default_factory=dict)
    tasks: Sequence[Watched] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, console.height
        head = Text(
            f" qstreamd demo  {time.monotonic() - self.began:4.1f} s", "bold", no_wrap=True, overflow="ellipsis"
        )
        yield head.append(f"   {WAY}", "not bold dim")
        yield Text()
        if not any(task.phase is not Phase.ASKED for task in self.tasks):
            yield from self._parts(width)
            return
        room = max(0, height - 3 - len(self.tasks))
        running = sum(_writes(task) for task in self.tasks)
        tail = min(TAIL_LINES_MAX, room // running) if running else 0
        spare = room - tail * running
        now = time.time()
        for task in self.tasks:
            yield _line(task, width, now)
            if _writes(task):
                yield from _tail(task.text, width, tail, "")
            elif task.phase is Phase.DONE and spare > 0:
                spare -= 1
                yield from _tail(_excerpt(task, width - 8), width, 1, "dim")

    def _parts(self, width: int) -> Iterator[Text]:
        for name, (detail, took_s) in self.parts.items():
            if took_s is None:
                mark, style, took = _spinner(), "cyan", ""
            else:
                mark, style, took = "✓", "green", f"{took_s:4.1f} s"
            line = Text(no_wrap=True, overflow="ellipsis")
            line.append(f"   {mark} ", style).append(f"{name:<10}").append(f"{took:<8}", "dim").append(detail, "dim")
            line.truncate(width)
            yield line


class LiveScreen:
    """A `Screen` on a terminal; leaves nothing of itself behind."""

    def __init__(self, console: Console, tasks: Sequence[Watched], began: float) -> None:
        self._board = Board(began)
        self._tasks = tasks
        self._live = Live(
            self._board, console=console, refresh_per_second=FRAMES_PER_S, transient=True, vertical_overflow="crop"
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def part(self, name: str, detail: str, took_s: float | None) -> None:
        """Shown with a spinner until it is ready."""
        self._board.parts[name] = (detail, took_s)

    def asked(self, task: Watched) -> None:
        """From the first one on, the tasks are shown instead of the parts."""
        self._board.tasks = self._tasks

    def happened(self, task: Watched, event: Event) -> None:
        """Drawn with the next frame."""


def _writes(task: Watched) -> bool:
    return task.phase is Phase.RUNNING and bool(task.text)


def _spinner() -> str:
    return FRAMES[int(time.monotonic() * FRAMES_PER_S) % len(FRAMES)]


def _line(task: Watched, width: int, now: float) -> Text:
    mark, style = _MARKS.get(task.phase, (_spinner(), "cyan"))
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f" {mark} ", style).append(f"{task.order.name:<13}", "bold").append(f"{task.order.queue:<15}", "blue")
    line.append_text(status(task, now))
    line.truncate(width, overflow="ellipsis")
    return line


def status(task: Watched, now: float) -> Text:
    """What a task does, in words. `now` in unix seconds."""
    match task.phase:
        case Phase.ASKED:
            return Text("published to QStash", "dim")
        case Phase.QUEUED:
            return Text("accepted, waits for a slot", "dim")
        case Phase.WAITING:
            return Text(f"waits: {REASONS.get(task.note, task.note)}", "yellow")
        case Phase.RETRYING:
            return Text(f"{task.note}, again in {max(0.0, task.retry_at - now):.1f} s", "yellow")
        case Phase.RUNNING:
            return _running(task, now)
        case Phase.DONE:
            used = task.done["usage"]
            again = f"attempt {task.attempt}, " if task.attempt > 1 else ""
            return Text(f"done in {task.duration_s:.1f} s, {again}{used['outputTokens']} tokens", "green")
        case Phase.FAILED:
            return Text(f"{task.code}: {task.note}", "bold red")


def _running(task: Watched, now: float) -> Text:
    said = Text(f"{task.model}  {max(0.0, now - task.attempt_at):4.1f} s")
    if task.words:
        said.append(f"  {task.words} words")
    if task.attempt > 1:
        said.append(f"  again, after {task.code}", "yellow")
    elif not task.words:
        said.append(f"  {task.order.about}", "dim")
    return said


def _excerpt(task: Watched, width: int) -> str:
    """One line of the answer."""
    result = task.done.get("result", task.text)
    line = " ".join((result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)).split())
    return line if cell_len(line) <= width else set_cell_size(line, width - 1).rstrip() + "…"


def _tail(text: str, width: int, lines: int, style: str) -> Iterator[Text]:
    """The last `lines` lines of `text`, wrapped, always so many."""
    kept = wrapped(text, max(10, width - 8))[-lines:] if lines else []
    for line in [*kept, *[""] * (lines - len(kept))]:
        yield Text("   │ ", "dim", no_wrap=True, end="").append(line, style or "default").append("\n")


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` cells; breaks at spaces and at wide characters. More text never changes a full line."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for unit in _UNIT.findall(paragraph):
            if line and cell_len(line) + cell_len(unit) > width:
                lines.append(line.rstrip())
                line = ""
            line += "" if unit.isspace() and not line else unit
            while cell_len(line) > width:
                lines.append(line[:width])
                line = line[width:]
        if line.rstrip():
            lines.append(line.rstrip())
    return lines
