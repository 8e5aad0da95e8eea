"""The checker is checked: with one rule broken, some invariant turns red; else a clean run proves nothing."""

from __future__ import annotations

import asyncio

import pytest

from tests.chaos.redis_proxy import RedisProxy
from tests.e2e.processes import DaemonProcess
from tests.e2e.world import LEASE_S, World

pytestmark = pytest.mark.timeout(120)


async def saboteur(world: World, rule: str, *, redis_url: str = "") -> DaemonProcess:
    """A daemon that breaks one rule."""
    daemon = world.new_daemon(redis_url=redis_url)
    daemon.start(("-m", "tests.chaos.saboteur", rule))
    await daemon.ready()
    return daemon


async def zombie(world: World, rule: str) -> None:
    """It stands still until another one has begun its task, then goes on while that one is at work."""
    first = await saboteur(world, rule)
    await world.publish("t1", tokens=700)
    await world.seen("t1", "token_batch")
    first.pause()
    second = await saboteur(world, rule)
    await world.seen("t1", "started", attempt=2)
    first.resume()
    await world.ended("t1", within_s=20)
    await asyncio.sleep(LEASE_S)
    assert second.running


async def violations(world: World) -> str:
    """What the checker says, at rest or after it never came to rest."""
    try:
        await world.check(within_s=8, overlap_s=3 * LEASE_S)
    except AssertionError as error:
        return str(error)
    return ""


async def test_the_checker_sees_an_ack_before_the_write(world: World) -> None:
    """I1: the task is lost with its daemon."""
    first = await saboteur(world, "ack_before_write")
    await world.publish("t1", tokens=400)
    await world.seen("t1", "token_batch")
    first.kill()
    await world.start_daemon(QSTREAMD_COMPARE_S="600")  # the sweeper would heal it: a second line of defence
    assert "have not ended" in await violations(world)


@pytest.mark.parametrize("rule", ["finish_without_fence", pytest.param("append_without_fence", marks=pytest.mark.long)])
async def test_the_checker_sees_a_zombie_that_is_not_fenced(world: World, rule: str) -> None:
    """I2, I4 or I8: its late tokens or its result are found."""
    await zombie(world, rule)
    found = await violations(world)
    assert any(word in found for word in ("I2", "I4", "I8")), found


@pytest.mark.long
async def test_the_checker_sees_a_doubled_delta(world: World) -> None:
    """I2: the text of the last attempt is not the text of the result."""
    async with RedisProxy(world.redis_url) as proxy:
        await saboteur(world, "no_nonce", redis_url=proxy.url)
        await world.publish("t1", tokens=300)
        await world.seen("t1", "token_batch")

        proxy.lose_reply("task:t1:events")
        await world.ended("t1")
        assert proxy.lost
        assert "I2" in await violations(world) or "I8" in await violations(world)


@pytest.mark.long
async def test_the_checker_finds_nothing_where_no_rule_is_broken(world: World) -> None:
    """The same zombie with all rules in force."""
    first = await world.start_daemon()
    await world.publish("t1", tokens=700)
    await world.seen("t1", "token_batch")
    first.pause()
    await world.start_daemon()
    await world.seen("t1", "started", attempt=2)
    first.resume()
    await world.ended("t1", within_s=20)
    assert await violations(world) == ""
