"""What is wrong in the queues."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from daemon.admin.checkup.queues import check
from daemon.admin.status import ConsumerState, Overview, QueueState

QUEUE = QueueState(
    name="q", tier="paid", mode="stream", waiting=0, running=0, slots=20, delayed=0, dead=0, places=0, max_size=200,
    oldest_wait_s=None, next_due_s=None, paused=False, paused_why="", consumers=1,
)  # fmt: skip


def look(*consumers: ConsumerState, **changed: Any) -> Overview:
    """One queue."""
    return Overview(0.0, [replace(QUEUE, **changed)], list(consumers), [], None, 3600.0)


def test_a_calm_system_is_fine() -> None:
    assert [f.level for f in check(look())] == ["ok"]


@pytest.mark.parametrize(
    ("changed", "name", "level"),
    [
        ({"consumers": 0}, "queues.unread", "info"),
        ({"consumers": 0, "waiting": 2}, "queues.unread", "error"),
        ({"paused": True, "paused_why": "x"}, "queues.paused", "warning"),
        ({"places": 200}, "queues.full", "error"),
        ({"oldest_wait_s": 301.0}, "queues.late", "warning"),
        ({"next_due_s": -31.0}, "queues.overdue", "error"),
        ({"dead": 1}, "queues.dead", "warning"),
    ],
)
def test_each_trouble_has_a_cure(changed: dict[str, Any], name: str, level: str) -> None:
    found = check(look(**changed))
    assert [(f.check, f.level) for f in found] == [(name, level)]
    assert found[0].cure


def test_tasks_of_silent_consumers_are_counted() -> None:
    found = check(look(ConsumerState("q", "c", alive=False, pending=3, idle_s=9.0, record_s=-5.0)))
    assert found[0].text == "3 tasks are in hand of 1 consumers that went silent"
