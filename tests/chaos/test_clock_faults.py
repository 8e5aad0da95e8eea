"""The clock of Redis is set while tasks run: leases, guards and pauses stand on it, correctness does not."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.chaos.stepped_redis import LIBRARY, SteppedRedis
from tests.conftest import REDIS
from tests.e2e.world import LEASE_S, ONE_AT_A_TIME, World, services_toml
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed: its wheel is for Linux on x86-64"),
]
STEP_S = 600


@pytest.fixture
def stepped() -> Iterator[SteppedRedis]:
    """A server whose clock is right so far."""
    with SteppedRedis(next(iter(REDIS.values()))) as server:
        yield server


@pytest.fixture
async def own(stepped: SteppedRedis, postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """A world on it."""
    async with World(stepped.url, postgres_url, tmp_path) as world:
        (tmp_path / "services.toml").write_text(services_toml() + ONE_AT_A_TIME, "utf-8")
        yield world


async def set_clock(world: World, server: SteppedRedis, ahead_s: int) -> None:
    """Returns when the server tells that time."""

    async def told() -> bool:
        seconds, _ = await world.redis.time()
        return bool(abs(seconds - time.time() - ahead_s) < 2)  # noqa: TID251  # two wall clocks are compared

    server.set_clock(ahead_s)
    await wait_until(told, description="the server's clock is set")


@pytest.mark.long
async def test_the_clock_of_redis_leaps_ahead(own: World, stepped: SteppedRedis) -> None:
    """F41: every lease is over at once. Who is taken over from stops on hearing of it; nobody writes twice."""
    lease_s = 5.0
    own.variables |= {"QSTREAMD_LEASE_S": "5", "QSTREAMD_SELF_FENCE_S": "4", "QSTREAMD_SWEEP_S": "0.5"}
    first = await own.start_daemon()
    await own.publish_many([f"t{n}" for n in range(6)], tokens=1200)
    await own.publish_many([f"w{n}" for n in range(3)], "narrow", tokens=400)  # two of them wait for a guard
    await own.publish("again", "f-cut-once")
    await own.seen("t0", "token_batch")
    second = await own.start_daemon()
    first.pause()  # for less than a lease: all that was over is the clock's doing
    await set_clock(own, stepped, STEP_S)
    await own.seen("t0", "started", attempt=2)
    first.resume()
    await wait_until(
        lambda: [line for line in first.log("attempt.ended") if line["outcome"] == "fenced"], description="it stopped"
    )
    await own.publish("after")
    await own.ended("after")
    history = await own.check(overlap_s=lease_s, within_s=40)
    assert history.states() == {"done": 11} and first.running and second.running
    assert max(len(task.calls) for task in history.tasks.values()) <= 3  # no storm: each is taken over once or twice
    assert (await own.row("t0"))["crashes"] == 0


@pytest.mark.long
async def test_the_clock_of_redis_steps_back(own: World, stepped: SteppedRedis) -> None:
    """F42: leases last longer. What runs goes on, is called once, and new work runs as ever, retries too."""
    daemons = [await own.start_daemon() for _ in range(2)]
    await own.publish_many([f"t{n}" for n in range(6)], tokens=400)
    await own.seen("t0", "token_batch")
    await set_clock(own, stepped, -STEP_S)
    await own.publish("after")
    await own.publish("again", "f-cut-once")
    await own.ended("after")
    await own.ended("again")
    history = await own.check(overlap_s=LEASE_S)
    assert history.states() == {"done": 8} and all(daemon.running for daemon in daemons)


@pytest.mark.long
async def test_what_waits_for_the_clock_waits_for_the_step_and_not_longer(own: World, stepped: SteppedRedis) -> None:
    """F42 for a dead daemon's task, its guard places and a pause: each ends the step later, by itself."""
    step_s = 6
    first = await own.start_daemon()
    await own.publish("t1", "narrow", tokens=1000)
    await own.seen("t1", "token_batch")
    await own.publish("t2", "narrow")  # parked: it waits for the place that t1 holds
    await own.seen("t2", "progress")
    first.kill()
    await set_clock(own, stepped, -step_s)
    began = time.monotonic()
    await own.start_daemon()
    for task_id in ("t1", "t2"):
        assert (await own.ended(task_id, within_s=step_s + 10 * LEASE_S))["type"] == "done"
    assert time.monotonic() - began > step_s - 1
    await own.check()
