"""The report of a week: what was done in it, service by service, for people in two languages and for programs."""

from __future__ import annotations

import json

import pytest

from daemon.domain.errors import Code
from daemon.domain.states import State
from daemon.ports import Transition
from tests.integration.admin.conftest import System
from tests.integration.admin.test_commands import call, do, environment

__all__ = ["environment"]


async def week(system: System) -> None:
    """Two done, one failed, one that failed once and is done, one that waits for its next attempt."""
    await system.finish("a")
    await system.finish("b", "length")
    await system.fail("c")
    for task in ("d", "e"):
        delivery, claimed = await system.start(task)
        ending = Transition(State.RETRYING, Code.LLM_TIMEOUT, "failed", count_failure=True)
        assert await system.ledger.transition(task, claimed.attempt, system.consumer, ending)
        await system.at.scripts.run([system.work.ack_call(delivery, whole_task=False)])


def test_a_week_is_summed_for_programs() -> None:
    """All attempts count, tasks by when they were accepted; the last line is for all services."""
    do(week)
    found = json.loads(call("report", "--json").output)
    assert found["to_at"] - found["from_at"] == 7 * 86400
    [service], total = found["services"], found["total"]
    assert service == total | {"service_id": "resume-review"}
    counts = {k: total[k] for k in ("tasks", "done", "failed", "expired", "cancelled", "open", "in_time", "attempts")}
    assert counts == {
        "tasks": 5, "done": 2, "failed": 1, "expired": 0, "cancelled": 0, "open": 2, "in_time": 2, "attempts": 5,
    }  # fmt: skip
    assert total["failures"] == {"LLM_ERROR": 1}
    assert total["attempt_failures"] == {"LLM_ERROR": 1, "LLM_TIMEOUT": 2}
    assert total["cut"] == 1
    assert (total["input_tokens"], total["output_tokens"], total["cost_usd"]) == (14, 6, 0.02)
    assert 0 <= total["wait_p50_s"] <= total["wait_p95_s"] and total["total_p95_s"] > 0


def test_a_week_is_a_page_for_people() -> None:
    """What failed stands below with its meaning, the most frequent first; Chinese too."""
    do(week)
    english = call("report").output
    assert "resume-review      5     2       1  66.7%" in english and "2 open" in english
    assert "\nTasks that failed:\n  1  resume-review  LLM_ERROR  The model had an error.\n" in english
    assert english.index("2  resume-review  LLM_TIMEOUT") < english.rindex("1  resume-review  LLM_ERROR")
    assert "\nAnswers cut at a limit (max_output_tokens):  1 resume-review\n" in english
    assert max(map(len, english.splitlines())) <= 100
    chinese = call("report", "--days", "1", "--lang", "zh", "--service", "resume-review").output
    assert "最近 1 d" in chinese and "失败的任务" in chinese and "2 进行中" in chinese and "合计" not in chinese


def test_a_week_without_tasks_says_so() -> None:
    assert call("report").output == "No task was accepted in the last 7 d.\n"
    found = call("report", "--service", "x")
    assert (found.exit_code, "x: no task in the last 7 d" in found.stderr) == (1, True)


def test_redis_may_be_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report is Postgres's."""
    do(week)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    assert "resume-review" in call("report").output
