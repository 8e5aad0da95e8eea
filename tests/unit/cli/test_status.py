"""The screen of `status`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click
import pytest

from daemon.admin.status import ConsumerState, LimiterState, Overview, QueueState
from daemon.cli.status import screen
from daemon.store.history import Recent

QUEUE = QueueState(
    name="q_paid_stream", tier="paid", mode="stream", waiting=3, running=20, slots=20, delayed=1, dead=0, places=4,
    max_size=200, oldest_wait_s=12.0, next_due_s=None, paused=False, paused_why="", consumers=1,
)  # fmt: skip
LOOK = Overview(0.0, [QUEUE], [], [], [], 3600.0)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def shown(overview: Overview = LOOK, **queue: Any) -> str:
    """Without colours."""
    return click.unstyle("\n".join(screen(replace(overview, queues=[replace(QUEUE, **queue)]))))


def test_a_queue_is_a_line() -> None:
    line = shown().splitlines()[1].split()
    assert line == ["q_paid_stream", "3", "12", "s", "20/20", "1", "0", "4/200", "open"]


def test_what_needs_a_look_stands_out() -> None:
    """Late, full, dead, paused, unread: in words, since colours may be missing."""
    assert "2 m 05 s" in shown(oldest_wait_s=125.0)
    assert "200/200  full" in shown(places=200)
    assert "paused: deploy" in shown(paused=True, paused_why="deploy")
    assert "nobody reads it" in shown(consumers=0)
    assert "\x1b[31m" in "\n".join(screen(replace(LOOK, queues=[replace(QUEUE, dead=2)])))


def test_consumers_models_and_the_past_follow() -> None:
    """And all of it fits 80 columns."""
    text = shown(
        replace(
            LOOK,
            consumers=[
                ConsumerState("q_paid_stream", "host-1", alive=True, pending=1, idle_s=1.0, record_s=9.0),
                ConsumerState("q_paid_stream", "host-2", alive=False, pending=2, idle_s=99.0, record_s=-80.0),
            ],
            limiters=[LimiterState("gpt", "paid", 5, 10), LimiterState("gpt", "free", 0, 10)],
            recent=[Recent("resume-review", {"done": 7, "LLM_ERROR": 2}, 0.1, 2.0, 30.0, 61.0, 12_345, 0.5)],
            notes=["Postgres: is not set"],
        )
    )
    assert "1 alive: host-1" in text
    assert "1 lapsed, 2 tasks of theirs wait to be taken over" in text
    assert "gpt    paid    5/10  █████·····  available" in text
    assert "resume-review     7     2.0 s      30 s  1 m 01 s     12k  $0.5000  LLM_ERROR 2" in text
    assert "Postgres: is not set" in text
    assert max(map(len, text.splitlines())) <= 80


def test_without_postgres_there_is_no_past() -> None:
    assert "LAST" not in shown(replace(LOOK, recent=None))
