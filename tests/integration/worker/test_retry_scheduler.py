"""The mover on a real server: tasks wake when they are due."""

from __future__ import annotations

import asyncio

import msgspec

from daemon.config import RetrySettings
from daemon.domain.messages import TaskMessage, WorkEntry
from daemon.worker.retry_scheduler import RetryScheduler
from tests.integration.worker.conftest import NAMES, QUEUE, Crew, NewCrew
from tests.waiting import WaitUntil


async def park(crew: Crew, task_id: str, delay_s: float) -> None:
    """Through the tail, as an attempt does."""
    await crew.add(task_id)
    (d,) = await crew.work.fetch(QUEUE, 1)
    assert await crew.settlement.snooze(d, int(delay_s * 1000), reason="RETRY_AT")


async def hold_far(crew: Crew, task_id: str, due_ms: float) -> None:
    """By another process, unknown to us."""
    message = TaskMessage(task_id=task_id, queue_id=QUEUE, service_id="s", user_id="u", variables={})
    entry = WorkEntry(message=message, sha256="0", accepted_at=1)
    await crew.client.hset(NAMES.held, task_id, msgspec.json.encode(entry))
    await crew.client.zadd(NAMES.retry, {task_id: due_ms})


async def test_parked_tasks_run_again_when_they_are_due_and_in_that_order(crew: Crew, wait_until: WaitUntil) -> None:
    """Not before, and within milliseconds after."""
    loop = asyncio.get_running_loop()
    async with crew.at_work("mover"):
        began = loop.time()
        for task_id, delay_s in (("late", 0.5), ("soon", 0.15), ("now", 0.001)):
            await park(crew, task_id, delay_s)
        async with crew.at_work("consumer"):
            await wait_until(lambda: crew.ended == ["now", "soon", "late"], description="all ran, in order")
        assert 0.5 <= loop.time() - began < 3


async def test_an_idle_mover_asks_nothing(crew: Crew) -> None:
    """It sleeps until the next due time, not by the clock."""
    await hold_far(crew, "t1", 4_000_000_000_000)
    async with crew.at_work("mover"):
        await asyncio.sleep(0.2)
        before = crew.scripts.flushes
        await asyncio.sleep(1.0)
        assert crew.scripts.flushes == before


async def test_what_another_process_parked_is_found_at_start_and_when_told(crew: Crew, wait_until: WaitUntil) -> None:
    """A process that died leaves nothing asleep."""
    await hold_far(crew, "t1", 1)
    async with crew.at_work("mover", "consumer"):
        await wait_until(lambda: crew.ended == ["t1"], description="found at start")
        await hold_far(crew, "t2", 1)
        crew.retry_scheduler.check([QUEUE])
        await wait_until(lambda: crew.ended == ["t1", "t2"], description="found when told")


async def test_more_than_a_batch_is_moved_at_once(crew: Crew, new_crew: NewCrew, wait_until: WaitUntil) -> None:
    """A thousand tasks whose model opens again do not wait for each other's round."""
    for number in range(450):
        await hold_far(crew, f"t{number}", 1)
    async with crew.at_work("mover"):
        await wait_until(lambda: all_moved(crew), description="all in :ready", within_s=2)
    assert await crew.client.xlen(NAMES.ready) == 450


async def all_moved(crew: Crew) -> bool:
    return not await crew.client.zcard(NAMES.retry)


async def test_an_id_without_a_message_is_told(crew: Crew, wait_until: WaitUntil) -> None:
    """It is put back from Postgres; the others go on."""
    await crew.client.zadd(NAMES.retry, {"ghost": 1})
    await hold_far(crew, "t1", 2)
    async with crew.at_work("mover", "consumer"):
        await wait_until(lambda: crew.ended == ["t1"] and crew.lost, description="told, and the other ran")
    assert crew.lost == [(QUEUE, ["ghost"])]


async def test_an_outage_only_delays(crew: Crew, wait_until: WaitUntil) -> None:
    """Redis out of memory: due tasks are moved when there is room again."""
    await hold_far(crew, "t1", 1)
    await crew.client.config_set("maxmemory", "1")
    try:
        async with crew.at_work("mover"):
            await wait_until(crew.metrics.redis_errors.labels("full")._value.get, description="refused")
            await crew.client.config_set("maxmemory", "0")
            await wait_until(lambda: all_moved(crew), description="moved")
    finally:
        await crew.client.config_set("maxmemory", "0")


async def test_a_mover_without_queues_sleeps(crew: Crew) -> None:
    """Nothing to look at, nothing to wait for."""
    retry_scheduler = RetryScheduler(crew.work, [], RetrySettings(), crew.metrics, crew._lost)
    work = asyncio.ensure_future(retry_scheduler.run())  # noqa: TID251  # cancelled below
    await asyncio.sleep(0.05)
    assert not work.done()
    work.cancel()
