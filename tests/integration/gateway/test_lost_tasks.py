"""A task that Redis lost before its claim: its viewers are told, and nobody else is told anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from daemon.config import LeaseSettings, Settings
from daemon.domain import events
from daemon.domain.events import Reason, Stage
from daemon.gateway import lost_tasks
from daemon.redis_client import keys
from daemon.store.pool import Pool
from daemon.store.tasks import PostgresLedger
from tests.integration.gateway.conftest import Rig, running
from tests.integration.gateway.frames import Frame, all_events, frames
from tests.integration.gateway.test_results import claimed
from tests.waiting import WaitUntil

PERIOD_S = 0.25
WAITS = events.progress(Stage.GUARDS, "waiting", reason=Reason.GUARD_USER)


@pytest.fixture
async def rig(settings: Settings) -> AsyncIterator[Rig]:
    """A gateway that compares all the time."""
    async with running(settings.model_copy(update={"lease": LeaseSettings(compare_s=PERIOD_S)})) as rig:
        yield rig


async def lost(rig: Rig, *task_ids: str) -> None:
    """What FLUSHALL leaves of their streams."""
    for task_id in task_ids:
        await rig.redis.delete(keys.events(task_id), keys.events_state(task_id))


@pytest.mark.parametrize("parked", [False, True])
async def test_viewers_of_a_lost_task_are_told_after_two_periods(rig: Rig, *, parked: bool) -> None:
    """`error` WORKER_LOST, terminal, without an id: also of one that was parked before its first claim."""
    await rig.append("t1", [WAITS] if parked else [], attempt=-1)
    async with rig.follow("t1") as answer:
        got = frames(answer)
        told = [await anext(got) for _ in range(3 if parked else 2)]
        await lost(rig, "t1")
        began = asyncio.get_running_loop().time()
        last = [frame async for frame in got if frame.event]
    assert asyncio.get_running_loop().time() - began >= lost_tasks.PERIODS * PERIOD_S * 0.8
    assert [f.event for f in told[1:]] == (["queued", "progress"] if parked else ["queued"])
    assert [(f.id, f.event) for f in last] == [(None, "error")]
    end = last[0].data
    assert (end["code"], end["retryable"], end["attempt"], end["taskId"]) == ("WORKER_LOST", False, 0, "t1")
    assert (end["requestId"], end["traceId"]) == ("r1", "tr1")


async def test_a_viewer_that_polls_or_comes_back_with_its_cursor_is_told_too(rig: Rig) -> None:
    """Neither connection is open all the time, and the stream was gone before the second one came."""
    await rig.append("t1", [], attempt=-1)
    told = await rig.poll("t1")
    await lost(rig, "t1")
    async with rig.follow("t1", told["after"]) as answer:
        assert [(f.id, f.event) for f in await all_events(answer)] == [(None, "error")]
    async with asyncio.timeout(15):
        while not (again := await rig.poll("t1", after=told["after"], wait=1))["events"]:
            pass
    assert [e["code"] for e in again["events"]] == ["WORKER_LOST"] and again["after"] == told["after"]


async def test_nothing_is_told_of_a_task_that_somebody_knows(rig: Rig, pool: Pool, wait_until: WaitUntil) -> None:
    """A stream, a row, a viewer that was shown nothing yet, one that was shown a start: none of them is lost."""
    await claimed(PostgresLedger(pool), "row")
    for task_id in ("row", "stream", "lost"):
        await rig.append(task_id, [], attempt=-1)
    await rig.append("begun", [events.started("m")])
    seen: dict[str, list[Frame]] = {}

    async def watch(task_id: str) -> None:
        async with rig.follow(task_id) as answer:
            async for frame in frames(answer):
                if frame.event:
                    seen.setdefault(task_id, []).append(frame)

    async with asyncio.TaskGroup() as group:
        watches = [group.create_task(watch(t)) for t in ("row", "stream", "begun", "unknown")]
        await wait_until(lambda: len(seen) == 3 and rig.fan_out.topics == 4, description="all watch")
        await lost(rig, "row", "begun")
        await watch_to_the_end(rig)
        for each in watches:
            each.cancel()
    assert {task_id: [f.event for f in got] for task_id, got in seen.items()} == {
        "row": ["queued"], "stream": ["queued"], "begun": ["queued", "started"],
    }  # fmt: skip


async def watch_to_the_end(rig: Rig) -> None:
    """Long enough: another task that is lost now is told of."""
    for _ in range(2):
        await rig.append("lost", [], attempt=-1)
        async with rig.follow("lost") as answer:
            got = frames(answer)
            await anext(got)
            await anext(got)
            await lost(rig, "lost")
            assert [f.event async for f in got if f.event] == ["error"]


async def test_a_stream_whose_time_was_over_says_nothing(
    settings: Settings, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The events of a task that waits longer than they are kept for: that its stream is gone proves nothing."""
    asked: list[Any] = []
    compare = {
        "lease": LeaseSettings(compare_s=PERIOD_S),
        "events": settings.events.model_copy(update={"ttl_s": PERIOD_S}),
    }
    async with running(settings.model_copy(update=compare)) as rig:
        look = rig.fan_out.without_stream

        async def without_stream(task_ids: list[str]) -> set[str]:
            asked.append(task_ids)
            return await look(task_ids)

        monkeypatch.setattr(rig.fan_out, "without_stream", without_stream)
        await rig.append("t1", [], attempt=-1)
        async with rig.follow("t1") as answer:
            got = frames(answer)
            await anext(got)
            await anext(got)
            await lost(rig, "t1")
            await wait_until(lambda: len(asked) > 6, description="several looks")
            assert not any(asked)
