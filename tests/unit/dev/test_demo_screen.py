"""The two views: a terminal of any size, and lines for a pipe."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence

import pytest
from rich.cells import cell_len
from rich.console import Console

from daemon.dev.demo.plain import PlainScreen
from daemon.dev.demo.screen import Board, LiveScreen, status, wrapped
from daemon.dev.demo.watching import Phase, Watched
from daemon.domain.events import Event
from tests.unit.dev.test_demo_watching import BATCH, RETRIED, STREAM, done, event, watched

LONG = "One sentence that is longer than a narrow terminal can hold in a single line of its own. " * 6


def drawn(tasks: Sequence[Watched], width: int = 80, height: int = 24) -> list[str]:
    """The lines of one frame."""
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=True, color_system=None)
    board = Board(time.monotonic(), tasks=tasks)
    with console.capture() as captured:
        console.print(board, end="")
    return captured.get().splitlines()


def writing(text: str = LONG) -> Watched:
    """A task in mid-stream."""
    return watched(*RETRIED[:2], event("token_batch", 1, 2, delta=text, channel="text"))


@pytest.mark.parametrize(("width", "height"), [(100, 30), (80, 24), (60, 12), (40, 8)])
def test_a_frame_fits_the_terminal(width: int, height: int) -> None:
    """However many stream at once."""
    lines = drawn(
        [writing(), writing(), writing("长" * 200), watched(*RETRIED, done(2, 3, "Hello you"))], width, height
    )
    assert len(lines) <= height
    assert max(cell_len(line) for line in lines) <= width


def test_the_end_of_the_text_is_shown_below_its_task() -> None:
    lines = drawn([writing("first\nlast words"), watched(*RETRIED[:1], order=BATCH)])
    at = next(i for i, line in enumerate(lines) if "letter" in line)
    assert "3 words" in lines[at]
    assert [line.strip() for line in lines[at + 1 : at + 3]] == ["│ first", "│ last words"]
    assert "accepted, waits for a slot" in lines[-1]


def test_a_finished_task_shows_how_its_answer_begins() -> None:
    task = watched(RETRIED[0], RETRIED[1], done(1, 2, "x"), order=BATCH)
    task.done["result"] = {"score": 78, "verdict": LONG}
    lines = drawn([task])
    assert "done in 9.5 s, 3 tokens" in lines[2]
    assert lines[3].startswith('   │ {"score": 78, "verdict": "One sentence') and lines[3].endswith("…")


def test_before_anything_was_asked_the_parts_are_shown() -> None:
    console = Console(width=80, height=24, file=io.StringIO(), force_terminal=True, color_system=None)
    with LiveScreen(console, [Watched(STREAM, "t1")], time.monotonic()) as screen:
        screen.part("redis", "Valkey 9  embedded", 0.1)
        screen.part("postgres", "starting", None)
        with console.capture() as captured:
            console.print(screen._board)
        assert "✓ redis      0.1 s" in captured.get() and "postgres" in captured.get()
        screen.asked(screen._tasks[0])
        screen.happened(screen._tasks[0], RETRIED[0])
    assert screen._board.tasks == screen._tasks


def test_every_phase_has_words() -> None:
    parked = event("progress", 0, 1, reason="GUARD_USER", stage="guards", message="m")
    failed = event("error", 1, 2, code="LLM_REFUSED", message="refused", retryable=False)
    said = {
        task.phase: status(task, 103.0).plain
        for task in (
            Watched(STREAM, "t1"), watched(*RETRIED[:1]), watched(*RETRIED[:1], parked), watched(*RETRIED[:2]),
            watched(*RETRIED[:6]), watched(*RETRIED, done(2, 3, "Hello you")), watched(*RETRIED[:2], failed),
        )
    }  # fmt: skip
    assert set(said) == set(Phase)
    assert said[Phase.WAITING] == "waits: this user's other task has to end first"
    assert said[Phase.RETRYING] == "LLM_ERROR after 1 word, again in 0.5 s"
    assert said[Phase.DONE] == "done in 9.5 s, attempt 2, 3 tokens"
    assert said[Phase.FAILED] == "LLM_REFUSED: refused"
    assert "again, after LLM_ERROR" in status(watched(*RETRIED), 105.0).plain


@pytest.mark.parametrize(
    "text", ["a b  c", "word " * 30, "长句子没有空格" * 9, "https://" + "x" * 90, "短 " + "长" * 40]
)
def test_wrapping_keeps_every_character_and_the_width(text: str) -> None:
    lines = wrapped(text, 20)
    assert max(map(cell_len, lines)) <= 20
    assert "".join("".join(lines).split()) == "".join(text.split())


@pytest.mark.parametrize("text", [LONG, "1. “参与多个项目，配合后端联调”没有信息。改成：为订单页设计", "x" * 70])
def test_text_that_grows_never_changes_a_line_that_was_full(text: str) -> None:
    """So that a line is written once, and the live view does not jump."""
    whole = wrapped(text, 20)
    for size in range(len(text)):
        assert wrapped(text[:size], 20)[:-1] == whole[: max(0, len(wrapped(text[:size], 20)) - 1)]


def lines_of(task: Watched, events: Sequence[Event]) -> list[str]:
    """What the plain view writes for these events."""
    written: list[str] = []
    with PlainScreen(written.append, time.monotonic()) as screen:
        screen.part("redis", "starting", None)
        screen.part("redis", "Valkey 9", 0.1)
        screen.asked(task)
        for each in events:
            task.apply(each)
            screen.happened(task, each)
    return [line[7:] for line in written]


def test_a_pipe_gets_a_line_for_each_change_and_each_line_of_text() -> None:
    broken_off = event("token_batch", 1, 3, delta="Dear you,\nI a", channel="text")
    parked = event("progress", 0, 1, reason="GUARD_USER", stage="guards", message="m")
    events = [RETRIED[0], parked, *RETRIED[1:3], broken_off, *RETRIED[5:], done(2, 3, "Hello you")]
    assert lines_of(Watched(STREAM, "t1"), events) == [
        "redis        ready      Valkey 9",
        "letter       published  q_paid_stream, cover-letter: breaks off once",
        "letter       queued     accepted by the relay",
        "letter       waits      this user's other task has to end first",
        "letter       started    attempt 1, gpt",
        "letter       | Dear you,",
        "letter       | I a",
        "letter       retry      attempt 1: LLM_ERROR after 4 words; again in 1.5 s",
        "letter       started    attempt 2, gpt",
        "letter       | Hello you",
        "letter       done       9.5 s, 3 tokens",
    ]


def test_a_pipe_is_told_of_a_failure() -> None:
    failed = event("error", 1, 2, code="LLM_REFUSED", message="refused", retryable=False)
    assert lines_of(Watched(STREAM, "t1"), [*RETRIED[:2], failed])[-1] == "letter       failed     LLM_REFUSED: refused"
