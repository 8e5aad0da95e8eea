"""Why a task is where it is, in words: one case for each verdict, and lives drawn from rows and events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from daemon.admin.explain import PHASES, Phase, explain, life, mean_s
from daemon.admin.status import QueueState
from daemon.admin.task_facts import LimiterUse, PastEvent, Pending, TaskFacts
from daemon.domain.errors import Code
from daemon.domain.states import State
from daemon.store.history import AttemptRow, Recent
from daemon.store.records import TaskRow

NOW, LEASE_S = 1000.0, 20.0
QUEUE = QueueState(
    name="q", tier="paid", mode="stream", waiting=1, running=0, slots=20, delayed=0, dead=0, places=1, max_size=200,
    oldest_wait_s=None, next_due_s=None, paused=False, paused_why="", consumers=1,
)  # fmt: skip
ROW = TaskRow(
    task_id="t1", queue_id="q", entry_id="tasks/1-0", service_id="s", user_id="u", tier="paid", model_id="m",
    request_id="r", trace_id="x", state=State.RUNNING, attempt=1, failures=0, crashes=0, owner="c", error_code=None,
    created_at=900.0, started_at=905.0, finished_at=None, heartbeat_at=998.0, message="{}", body_sha256="",
)  # fmt: skip
HAND = Pending(stream="tasks", consumer="c", idle_s=2.0, deliveries=1, alive=True)
RECENT = Recent("s", {"done": 4}, 1.0, 2.0, 30.0, 60.0, 10, None)


def facts(**changed: Any) -> TaskFacts:
    """A task that lies unread in a queue with free slots."""
    plain = TaskFacts(
        task_id="t1", now=NOW, queue=QUEUE, row=None, attempts=[], events=[], ended=False, cancel_asked=False,
        entry_id="1-0", reserved_at=990.0, position=1, pending=None, in_stream="tasks", due_at=None, parked="",
        parked_at=None, user_id="u", model_id="m", tier="paid",
    )  # fmt: skip
    return replace(plain, **changed)


def ended(state: State, code: Code | None = None) -> TaskRow:
    """The row of a task that has ended."""
    return replace(ROW, state=state, error_code=code, finished_at=990.0, failures=3)


CASES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("DONE", {"row": ended(State.DONE)}, ["done, on attempt 1"]),
    ("FAILED", {"row": ended(State.FAILED, Code.LLM_ERROR)}, ["LLM_ERROR", "3 failures", "tasks retry t1"]),
    ("CANCELLED", {"row": ended(State.CANCELLED, Code.CANCELLED)}, ["The task was cancelled"]),
    ("RUNNING", {"row": ROW, "pending": HAND}, ["Attempt 1 runs on c with m", "2 s ago"]),
    ("RUNNING", {"row": ROW, "pending": HAND, "cancel_asked": True}, ["Somebody asked to cancel it"]),
    ("OWNER_SILENT", {"row": replace(ROW, heartbeat_at=950.0), "pending": HAND}, ["silent for 50 s"]),
    (
        "OWNER_SILENT",
        {"row": ROW, "pending": replace(HAND, alive=False), "queue": replace(QUEUE, consumers=0)},
        ["start a daemon"],
    ),
    ("STARTING", {"pending": HAND}, ["about to start"]),
    ("CLAIM_PENDING", {"pending": replace(HAND, alive=False, idle_s=9.0)}, ["went silent"]),
    ("QUEUE_PAUSED", {"queue": replace(QUEUE, paused=True, paused_why="deploy")}, ["(deploy)", "queues resume q"]),
    ("NO_CONSUMER", {"queue": replace(QUEUE, consumers=0)}, ["Nobody reads q", "--queues q"]),
    (
        "GUARD_USER",
        {
            "due_at": 1002.0, "parked": "GUARD_USER", "parked_at": 994.0,
            "limiters": [LimiterUse("user", 3, 3, holds=False, rank=2)],
        },
        ["since 6 s", "(3 of 3 in use; 2 wait before it)", "in 2 s at the latest"],
    ),
    (
        "GUARD_MODEL",
        {"due_at": 999.0, "parked": "GUARD_MODEL", "limiters": [LimiterUse("model", 50, 50, holds=False, rank=0)]},
        ["it is next", "asks again now"],
    ),
    (
        "RATE_LIMITED",
        {"due_at": 1012.0, "parked": "RATE_LIMITED", "closed": ("RATE_LIMITED", 9.0)},
        ["unavailable for 9 s"],
    ),
    (
        "RETRY_AT",
        {
            "due_at": 1030.0, "row": replace(ROW, state=State.RETRYING, failures=1),
            "events": [PastEvent("error", 995.0, 1, "", "LLM_TIMEOUT", terminal=False)],
        },
        ["failed 1 times, last with LLM_TIMEOUT", "in 30 s", "tasks retry t1"],
    ),
    ("SLOTS_FULL", {"queue": replace(QUEUE, running=20), "position": 41, "recent": [RECENT]}, ["20 slots", "40 tasks"]),
    ("NEXT", {}, ["slots are free"]),
    ("PROMISED", {"entry_id": "", "in_stream": ""}, ["10 s ago", "QStash"]),
    (
        "ENDED_UNCLAIMED",
        {
            "ended": True,
            "in_stream": "",
            "events": [PastEvent("error", 995.0, 0, "", "DELIVERY_FAILED", terminal=True)],
        },
        ["DELIVERY_FAILED"],
    ),
    ("LOST", {"row": replace(ROW, state=State.QUEUED), "in_stream": ""}, ["no entry of it is in Redis"]),
    ("SETTLED", {"in_stream": "", "no_store": "is not set"}, ["Postgres is not set"]),
    ("UNKNOWN", {"in_stream": "", "reserved_at": None}, ["Ask again"]),
]  # fmt: skip


@pytest.mark.parametrize(("code", "changed", "words"), CASES)
def test_each_cause_is_named_in_two_languages(code: str, changed: dict[str, Any], words: list[str]) -> None:
    """The first that holds speaks; what helps is named."""
    found = explain(facts(**changed), LEASE_S)
    assert found.code == code
    said = f"{found.en} {found.cure}"
    assert [word for word in words if word not in said] == [], said
    assert any("一" <= character <= "鿿" for character in found.text("zh"))
    assert found.text("en") == found.en


def test_a_full_queue_tells_when_it_will_likely_start() -> None:
    """41 before the slots of 20, each 30 s."""
    found = explain(facts(queue=replace(QUEUE, running=20), position=41, recent=[RECENT]), LEASE_S)
    assert found.guessed
    assert found.starts_in_s == pytest.approx(41 * 30 / 20)


def test_how_long_a_task_takes_is_told_from_the_past() -> None:
    """Of the same service if there is any, else of all, else a minute."""
    assert mean_s(facts(row=ROW, recent=[RECENT, replace(RECENT, service_id="z", run_mean_s=90.0)])) == 30.0
    assert mean_s(facts(recent=[RECENT, replace(RECENT, service_id="z", run_mean_s=90.0)])) == 60.0
    assert mean_s(facts()) == 60.0


def test_a_life_is_drawn_from_rows_and_events() -> None:
    """Queued, waited for a place, failed, waited, first token, answered; the sum is the whole life."""
    found = life(
        facts(
            row=replace(ROW, state=State.DONE, attempt=2, finished_at=980.0),
            events=[
                PastEvent("queued", 900.0, 0, "", "", terminal=False),
                PastEvent("progress", 902.0, 0, "GUARD_MODEL", "", terminal=False),
                PastEvent("progress", 904.0, 0, "GUARD_MODEL", "", terminal=False),
            ],
            attempts=[
                AttemptRow(1, "m", 913.0, None, 915.0, "failed", "LLM_ERROR", 0, None),
                AttemptRow(2, "m", 917.0, 920.0, 980.0, "done", None, 99, 0.1),
            ],
        )
    )
    assert found == [
        Phase("queued", 2.0, 0), Phase("waited", 11.0, 0, "GUARD_MODEL"), Phase("ran", 2.0, 1, "m"),
        Phase("between", 2.0, 1, "LLM_ERROR"), Phase("first_token", 3.0, 2, "m"), Phase("answered", 60.0, 2, "m"),
    ]  # fmt: skip
    assert {phase.kind for phase in found} <= set(PHASES)


def test_a_running_attempt_shows_its_first_token_from_the_events() -> None:
    """Its row does not know it yet; the last stretch grows until now."""
    found = life(
        facts(
            row=ROW, attempts=[AttemptRow(1, "m", 905.0, None, None, None, None, 0, None)],
            events=[PastEvent("token_batch", 910.0, 1, "", "", terminal=False)],
        )
    )  # fmt: skip
    assert found == [Phase("queued", 5.0, 0), Phase("first_token", 5.0, 1, "m"), Phase("answered", 90.0, 1, "m")]


def test_a_task_without_a_trace_has_no_life() -> None:
    assert life(facts(reserved_at=None)) == []
