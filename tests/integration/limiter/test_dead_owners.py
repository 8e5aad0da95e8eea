"""Permits of owners that are proved dead: kept for their tasks, and nobody else's are touched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from daemon.config import RedisSettings
from daemon.domain.permits import Granted, NoModelAvailable, Permit, PermitRequest, WaitForPermit
from daemon.redis_client import keys
from daemon.redis_client.connection import connect
from tests.integration.limiter.test_permits import LEASE_MS, SETTINGS, Desk, ask, model
from tests.waiting import wait_until

pytestmark = [pytest.mark.redis_versions, pytest.mark.usefixtures("redis_version")]
DEAD, ALIVE = "0000dead", "000a11fe"


@pytest.fixture
async def desk(redis_settings: RedisSettings) -> AsyncIterator[Desk]:
    async with connect(redis_settings) as client:
        yield Desk(client)


def of(owner: str, asked: PermitRequest) -> PermitRequest:
    """The same, asked by a process with that nonce."""
    return replace(asked, token=f"{asked.token.partition(':')[0]}:{owner}ffff")


async def test_the_permits_of_a_dead_owner_are_kept_for_its_tasks(desk: Desk) -> None:
    """Whoever waited before, and however long the lease would have run: the task that is taken over gets in first."""
    held = of(DEAD, ask("t1", model(limit=1), age=20, users=1))
    assert await desk.enters(held)
    older = ask("t0", model(limit=1), age=10, users=1)
    assert isinstance(await desk.enter(older), WaitForPermit)
    permits = [*held.shared, held.candidates[0].permit]
    for _ in range(2):
        await desk.limiter.reassign(permits, [DEAD], [held.waiter])
    assert isinstance(await desk.enter(older), WaitForPermit)
    assert await desk.enters(of(ALIVE, held))


async def test_permits_of_a_dead_owner_go_to_whoever_waits_if_their_task_is_not_here(desk: Desk) -> None:
    """And only those of that owner."""
    other = of(ALIVE, ask("t2", model(limit=2)))
    assert await desk.enters(of(DEAD, ask("t1", model(limit=2))))
    assert await desk.enters(other)
    waits = ask("t3", model(limit=2), age=30)
    assert isinstance(await desk.enter(waits), WaitForPermit)
    await desk.park("t3")
    await desk.limiter.reassign([waits.candidates[0].permit], [DEAD], [])
    assert await desk.woken() == ["t3"]
    assert await desk.enters(waits)
    assert await desk.limiter.renew([(other.token, [other.candidates[0].permit])], LEASE_MS) == set()


async def test_the_probe_of_a_dead_owner_is_kept_for_its_task(desk: Desk) -> None:
    """A breaker that one process was probing when it died does not stay open for a lease."""
    for number in range(SETTINGS.breaker_failures):
        asked = ask(f"f{number}", model(limit=9))
        assert await desk.enters(asked)
        await desk.leave(asked, "failed")
    probing = of(DEAD, ask("t1", model(limit=9)))
    await wait_until(lambda: desk.enters(probing), description="it probes")
    assert isinstance(await desk.enter(ask("t2", model(limit=9))), WaitForPermit | NoModelAvailable)
    probe = Permit(keys.model_keys("m").probe, 1)
    await desk.limiter.reassign([probing.candidates[0].permit, probe], [DEAD], [probing.waiter])
    again = await desk.enter(of(ALIVE, probing))
    assert isinstance(again, Granted)
    assert probe in again.permits
