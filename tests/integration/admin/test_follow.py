"""Following a task from a terminal."""

from __future__ import annotations

import asyncio

import pytest

from daemon.admin.connections import Connections
from daemon.admin.follow import EventsGone, follow
from daemon.domain.errors import Code
from daemon.domain.events import CURRENT_ATTEMPT, Stage, error
from daemon.redis_client import keys
from tests.integration.admin.conftest import System

QUEUE = "q_paid_stream"


async def test_events_come_until_the_end(at: Connections, system: System) -> None:
    """Also for a task that nobody knows yet; a cursor passes over what was seen."""
    seen: list[str] = []

    async def watch() -> None:
        seen.extend([event.type.value async for event in follow(at, "t1", "0-0", wait=True)])

    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        await system.accept("t1")
        draft = error(Stage.QUEUE, Code.EXPIRED, "late", retryable=False)
        await system.events.append(system.identity("t1", QUEUE), CURRENT_ATTEMPT, [draft])
    assert seen == ["queued", "error"]
    first = (await system.events.read("t1"))[0].id
    assert [e.type.value async for e in follow(at, "t1", first, wait=True)] == ["error"]


async def test_what_is_there_is_shown_without_waiting(at: Connections, system: System) -> None:
    await system.accept("t1")
    assert [e.type.value async for e in follow(at, "t1", "0-0", wait=False)] == ["queued"]


async def test_expired_events_are_said_instead_of_waited_for(at: Connections, system: System) -> None:
    """The row tells that the end is long past."""
    await system.finish("t1")
    await at.redis.delete(keys.events("t1"), keys.events_state("t1"))
    with pytest.raises(EventsGone, match="has ended as done"):
        _ = [e async for e in follow(at, "t1", "0-0", wait=True)]
