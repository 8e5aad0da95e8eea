"""The commands as people and programs use them: what they print, how they end, what they never show."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from daemon.admin.connections import Connections
from daemon.cli import cli
from daemon.config import load
from daemon.domain.clock import SystemClock
from daemon.domain.errors import Code
from daemon.domain.events import Channel, Stage, error, started, token_batch
from daemon.events.log import EventLog
from daemon.redis_client import keys
from tests.integration.admin.conftest import System

Do = Callable[[Callable[[System], Awaitable[Any]]], Any]
QUEUE = "q_paid_stream"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, redis_url: str, postgres_url: str) -> None:
    """The servers of the test, a terminal of 100 columns."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    monkeypatch.setenv("COLUMNS", "100")


def do(work: Callable[[System], Awaitable[Any]]) -> Any:
    """Put something into the system, on a loop of its own."""

    async def run() -> Any:
        async with Connections(load()) as at:
            return await work(System(at))

    return asyncio.run(run())


def call(*arguments: str) -> Result:
    """One command line; nothing of a task's content may be in what it prints."""
    found = CliRunner().invoke(cli, list(arguments))
    if "--content" not in arguments:
        assert "canary" not in found.output
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found


def test_status_is_one_screen_for_people_and_one_document_for_programs() -> None:
    """Every queue is there, and what waits."""

    async def busy(system: System) -> None:
        await system.finish("t1")
        await system.fail("t2")
        await system.accept("t3")
        await system.hold(keys.model_permits("gpt", "free"), "x:1")
        await system.at.redis.set(keys.model_keys("gpt").cooldown, "QUOTA\x1b[2J", px=60_000)
        await system.at.redis.hset(keys.queue_keys("q_free_batch").control, mapping={"paused": "1", "why": "a\rb"})

    do(busy)
    found = call("status")
    assert found.exit_code == 0
    for words in (
        "q_paid_stream",
        "nobody reads it",
        "paused: a�b",
        "unavailable: QUOTA�[2J",
        "1 alive",
        "LLM_ERROR 1",
    ):
        assert words in found.output, found.output
    assert len(found.output.splitlines()) < 30
    assert max(map(len, found.output.splitlines())) <= 100
    document = json.loads(call("status", "--json").output)
    [queue] = [q for q in document["queues"] if q["name"] == QUEUE]
    assert (queue["waiting"], queue["running"], queue["dead"]) == (1, 0, 1)


def test_a_quiet_system_says_so() -> None:
    assert "No attempt ended in the last 1 h." in call("status").output
    assert "Nobody reads." in call("consumers").output


def test_consumers_are_listed_and_the_dead_are_buried() -> None:
    """Never one with something pending."""

    async def two(system: System) -> None:
        await system.accept("t1")
        await system.read()
        await system.work.make_groups(["q_free_batch"])
        await system.at.redis.xgroup_createconsumer(keys.queue_keys("q_free_batch").tasks, keys.GROUP, "gone")
        await system.at.redis.zadd(keys.CONSUMERS, {f"{QUEUE}/{system.consumer}": 1, "q_free_batch/gone": 1})

    do(two)
    assert call("consumers").output.count("lapsed") == 2
    assert "gone" not in call("consumers", "--queue", QUEUE).output
    found = json.loads(call("consumers", "--delete", "--json").output)
    assert [consumer["name"] for consumer in found["deleted"]] == ["gone"]
    assert [consumer["name"] for consumer in found["consumers"]] == ["host-1-abcd"]
    assert "deleted" not in call("consumers", "--bury").output
    assert call("consumers", "--queue", "q_nope").exit_code == 2


def test_tasks_are_listed_newest_first() -> None:
    """By state, and page by page."""

    async def some(system: System) -> None:
        for n in range(3):
            await system.finish(f"t{n}")
        await system.fail("t3")

    do(some)
    assert "t3" in call("tasks", "list", "--state", "failed", "--since", "1h").output
    listed = json.loads(call("tasks", "list", "--limit", "2", "--json").output)
    assert [task["task_id"] for task in listed] == ["t3", "t2"]
    rest = json.loads(call("tasks", "list", "--before", str(listed[-1]["created_at"]), "--json").output)
    assert [task["task_id"] for task in rest] == ["t1", "t0"]
    assert call("tasks", "list", "--user", "nobody").output == "No such task.\n"


def test_a_task_is_shown_without_its_content_unless_asked() -> None:
    """Neither prompt nor answer, in text or JSON."""
    do(lambda system: system.finish("t1"))
    assert "db:result:" in call("tasks", "show", "t1").output
    document = json.loads(call("tasks", "show", "t1", "--json").output)
    assert (document["task"]["state"], document["attempts"][0]["outcome"]) == ("done", "done")
    shown = call("tasks", "show", "t1", "--content").output
    assert "canary-answer" in shown and "canary-prompt" in shown
    assert json.loads(call("tasks", "show", "t1", "--content", "--json").output)["result"]["content"] == "canary-answer"


def test_a_task_without_a_row_is_pointed_to_explain() -> None:
    do(lambda system: system.accept("t1"))
    found = call("tasks", "show", "t1")
    assert found.exit_code == 1
    assert "hint: it may still wait: tasks explain t1" in click.unstyle(found.output)


def test_events_are_followed_to_the_end() -> None:
    """0 after done, 1 after an error; text only when asked for."""
    do(lambda system: system.finish("t1"))
    do(lambda system: system.fail("t2"))
    found = call("tasks", "tail", "t1")
    assert found.exit_code == 0
    assert "text: 13 characters" in found.output
    assert "text: canary-answer" in call("tasks", "tail", "t1", "--content").output
    lines = [json.loads(line) for line in call("tasks", "tail", "t1", "--json").output.splitlines()]
    assert [line["type"] for line in lines] == ["queued", "started", "token_batch", "done"]
    rest = call("tasks", "tail", "t1", "--json", "--after", lines[2]["id"]).output.splitlines()
    assert [json.loads(line)["type"] for line in rest] == ["done"]
    assert call("tasks", "tail", "t2").exit_code == 1
    do(lambda system: system.at.redis.delete(keys.events("t1"), keys.events_state("t1")))
    gone = call("tasks", "tail", "t1")
    assert gone.exit_code == 1
    assert "tasks show t1" in gone.output


def test_hostile_text_of_a_model_moves_no_cursor() -> None:
    """In an event, even with --content."""

    async def hostile(system: System) -> None:
        data = json.dumps({"attempt": 1, "seq": 1, "timestamp": 1, "channel": "text", "delta": "canary\x1b]0;x\x07"})
        await system.at.redis.xadd(keys.events("t1"), {"type": "token_batch", "data": data})
        await system.at.redis.expire(keys.events("t1"), 60)

    do(hostile)
    shown = call("tasks", "tail", "t1", "--content", "--no-follow").output
    assert "canary�]0;x�" in shown
    assert "\x1b]" not in shown


def test_explain_speaks_both_languages_and_draws_the_life() -> None:
    do(lambda system: system.finish("t1"))
    found = click.unstyle(call("tasks", "explain", "t1").output)
    assert found.startswith("t1  q_paid_stream  DONE\nIt is done, on attempt 1.\n")
    assert "in all:" in found and "3 output tokens  $0.010000" in found
    assert "已完成" in call("tasks", "explain", "t1", "--lang", "zh").output
    document = json.loads(call("tasks", "explain", "t1", "--json").output)
    assert (document["code"], document["facts"]["row"]["state"]) == ("DONE", "done")
    unknown = call("tasks", "explain", "nope")
    assert unknown.exit_code == 1
    assert "case-sensitive" in unknown.output


def test_a_waiting_task_is_explained_with_its_cure() -> None:
    do(lambda system: system.accept("t1"))
    found = click.unstyle(call("tasks", "explain", "t1").output)
    assert "What to do: start a daemon: python -m daemon --queues q_paid_stream" in found


def test_cancel_and_retry_end_with_their_outcome() -> None:
    """0 when it was done, 1 when not; for programs as JSON."""
    do(lambda system: system.fail("t1"))
    do(lambda system: system.accept("t2"))
    assert call("tasks", "retry", "t1", "--reason", "again").output == "t1: starts anew: in :ready of q_paid_stream\n"
    assert json.loads(call("tasks", "cancel", "t2", "--json").output)["state"] == "cancelled"
    again = call("tasks", "retry", "t2")
    assert again.exit_code == 1
    assert "only failed and expired start anew" in again.output


def test_an_order_is_refused_on_servers_of_another_environment() -> None:
    """Looking is free."""
    do(lambda system: system.accept("t1"))
    do(lambda system: system.at.redis.set(keys.ENVIRONMENT, "staging"))
    found = CliRunner().invoke(cli, ["tasks", "cancel", "t1"])
    assert "belongs to" in str(found.exception)
    assert call("status").exit_code == 0


def test_doctor_prints_findings_with_cures() -> None:
    """Exit 1 for an error, and with --strict for a warning."""
    do(lambda system: system.accept("t1"))
    found = call("doctor")
    assert found.exit_code == 1
    assert "-> python -m daemon --queues q_paid_stream" in click.unstyle(found.output)
    assert "redis.policy" not in call("doctor", "--quiet").output
    document = json.loads(call("doctor", "--json", "--strict").output)
    assert document["ok"] is False
    assert {finding["level"] for finding in document["findings"]} >= {"ok", "error", "warning"}


def test_doctor_says_when_it_could_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSTREAMD_LEASE_S", "x")
    found = call("doctor")
    assert found.exit_code == 1
    assert "servers were not asked" in found.output


def test_no_colour_when_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR holds even on a terminal."""
    monkeypatch.setenv("NO_COLOR", "1")
    do(lambda system: system.fail("t1"))
    for arguments in (["status"], ["tasks", "explain", "t1"], ["doctor"], ["consumers"], ["check"]):
        assert "\x1b" not in CliRunner().invoke(cli, arguments, color=True).output, arguments


@pytest.mark.parametrize(
    "command",
    [
        ["check"], ["doctor"], ["status"], ["tasks"], ["tasks", "list"], ["tasks", "show"], ["tasks", "tail"],
        ["tasks", "explain"], ["tasks", "cancel"], ["tasks", "retry"], ["consumers"], ["capacity"],
        ["loadtest"], ["healthcheck"], ["models"],
    ],
)  # fmt: skip
def test_every_help_has_an_example(command: list[str]) -> None:
    """And fits 100 columns."""
    found = CliRunner().invoke(cli, [*command, "--help"])
    assert found.exit_code == 0
    assert "Example" in found.output
    assert max(map(len, found.output.splitlines())) <= 100


class SetClock(SystemClock):
    """Says what it is told."""

    now = 1000.0

    def time(self) -> float:
        return self.now


def test_a_long_answer_is_told_in_a_few_lines() -> None:
    """The first piece by itself, then what came within five seconds; none is lost, and a new attempt begins anew."""

    async def long(system: System) -> None:
        await system.accept("t1")
        clock = SetClock()
        events = EventLog(system.at.scripts, system.at.settings.events, clock)
        task = system.identity("t1", QUEUE)
        for attempt in (1, 2):
            await events.append(task, attempt, [started("gpt")])
            for _ in range(8):
                await events.append(task, attempt, [token_batch("four", Channel.TEXT)])
                clock.now += 1
        await events.append(task, 2, [error(Stage.EXECUTE, Code.LLM_ERROR, "no", retryable=False)])

    do(long)
    lines = [line.split("token_batch  ")[1] for line in call("tasks", "tail", "t1").output.splitlines() if "_b" in line]
    once = ["text: 4 characters", "text: 24 characters in 6 pieces", "text: 4 characters in 1 pieces"]
    assert lines == once * 2
