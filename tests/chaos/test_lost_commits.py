"""Postgres fails over to a server that lacks the last commits: its tables go back to a copy while daemons run."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.e2e.history import History
from tests.e2e.world import LEASE_S, World, text_of
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

TABLES = ("tasks", "attempts", "results")


async def copy(world: World) -> None:
    """What the standby has."""
    for table in TABLES:
        await world.sql(f"CREATE TABLE public.kept_{table} AS TABLE qstreamd.{table}")


async def fail_over(world: World) -> None:
    """All connections end, and the standby answers; the identity of `results` goes back with it."""
    await world.sql(
        "WITH gone AS MATERIALIZED (SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name LIKE 'qstreamd%') SELECT count(*) FROM gone"
    )
    await world.sql(
        "DO $$ BEGIN LOCK TABLE qstreamd.tasks, qstreamd.attempts, qstreamd.results IN ACCESS EXCLUSIVE MODE;"
        " DELETE FROM qstreamd.tasks;"
        " INSERT INTO qstreamd.tasks SELECT * FROM public.kept_tasks;"
        " INSERT INTO qstreamd.attempts SELECT * FROM public.kept_attempts;"
        " INSERT INTO qstreamd.results OVERRIDING SYSTEM VALUE SELECT * FROM public.kept_results;"
        " PERFORM setval(pg_get_serial_sequence('qstreamd.results', 'id'),"
        " (SELECT coalesce(max(id), 0) + 1 FROM qstreamd.results), false); END $$"
    )


def held(history: History, allowed: Sequence[str] = ()) -> None:
    """The invariants, but for the records of attempts: those of lost commits are gone (I4), and so are their calls."""
    found = [v for v in history.violations(overlap_s=3 * LEASE_S) if v.split(": ")[1] not in {"I4", "I12", *allowed}]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("queue", ["q_paid_stream", "q_paid_batch"])
async def test_an_attempt_is_numbered_once_and_tells_one_story(world: World, queue: str) -> None:
    """Five tasks run when their claims are lost: each number starts once, and each text is of one run."""
    tasks = [f"t{n}" for n in range(5)]
    for _ in range(2):
        await world.start_daemon()
    await copy(world)
    await world.publish_many(tasks, tokens=500, queue=queue)
    for task_id in tasks:
        await world.seen(task_id, "started")
    await fail_over(world)
    for task_id in tasks:
        done = await world.ended(task_id, within_s=30)
        assert (done["type"], done["attempt"], done["resultRef"]) == ("done", 2, f"db:result:{task_id}")
    await world.quiescent()
    history = await world.history()
    held(history)
    for task_id, task in history.tasks.items():
        assert [e["attempt"] for e in task.events if e["type"] == "started"] == [1, 2]
        assert [r["content"] for r in task.results] == [text_of(task_id, 500)]
        assert task.row is not None and (task.row["attempt"], task.row["owner"] is None) == (2, False)


async def test_a_zombie_of_before_the_failover_says_nothing(world: World) -> None:
    """It stands still through failover and take-over, both with number one: its words and its result are refused."""
    first = await world.start_daemon()
    await copy(world)
    await world.publish("t1", tokens=600)
    await world.seen("t1", "token_batch")
    first.pause()
    await fail_over(world)
    await world.start_daemon()
    await world.seen("t1", "started", attempt=2)
    first.resume()
    assert (await first.logged("attempt.ended"))["outcome"] == "fenced"
    done = await world.ended("t1")
    assert (done["type"], done["attempt"]) == ("done", 2)
    await world.quiescent()
    history = await world.history()
    held(history)
    last = [e["delta"] for e in history.tasks["t1"].events if e["type"] == "token_batch" and e["attempt"] == 2]
    assert "".join(last) == text_of("t1", 600)


async def test_a_done_without_a_row_is_healed_by_its_redelivery(world: World) -> None:
    """The daemon dies before its acks, and the commits of all results are lost: they come back from the events."""
    world.variables |= {"NODE_ENV": "development"}
    await world.start_relay(NODE_ENV="development")
    daemon = await world.start_daemon(QSTREAMD_FAILPOINTS="ack:before=kill")
    await copy(world)
    await world.publish("t1", tokens=200)
    assert (await world.ended("t1"))["type"] == "done"
    assert await daemon.ended() == -9
    await fail_over(world)
    assert await world.sql("SELECT FROM qstreamd.tasks") == []
    await world.start_daemon()
    await world.quiescent()
    history = await world.history()
    held(history)
    assert history.calls() == 1
    assert [r["content"] for r in history.tasks["t1"].results] == [text_of("t1", 200)]


async def test_results_of_two_tasks_are_not_mixed_up(world: World) -> None:
    """The ids of `results` are handed out again after the failover; `resultRef` names the task."""
    await world.start_daemon()
    await copy(world)
    await world.publish("t1")
    first = await world.ended("t1")
    await wait_until(lambda: _settled(world), description="t1 is settled")
    await fail_over(world)
    await world.publish("t2")
    second = await world.ended("t2")
    assert (first["resultRef"], second["resultRef"]) == ("db:result:t1", "db:result:t2")
    rows = {r["task_id"]: r["content"] for r in await world.sql("SELECT task_id, content FROM qstreamd.results")}
    assert rows == {"t2": text_of("t2", 20)}


async def _settled(world: World) -> bool:
    return not await world.redis.xlen("{bp:queue:q_paid_stream}:tasks")
