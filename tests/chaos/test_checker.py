"""The checker is checked: with one rule broken, some invariant turns red; else a clean run proves nothing.

One rule in `make test`, all in `make mutate`, each beside the same course with the rule in force.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from tests.chaos.redis_proxy import RedisProxy
from tests.chaos.saboteur import RULES
from tests.e2e.processes import DaemonProcess
from tests.e2e.world import CALM, LEASE_S, World

pytestmark = pytest.mark.timeout(180)

UNBROKEN = ""
PATIENT_S = 20.0  #: how long a course with all rules in force may take to come to rest
RED_S = 2.5  #: three times that (tests.waiting) is several times what an idle machine takes: not at rest by then is red


async def saboteur(world: World, rule: str, *, redis_url: str = "") -> DaemonProcess:
    """A daemon that breaks one rule, or none."""
    daemon = world.new_daemon(redis_url=redis_url)
    daemon.start(("-m", "tests.chaos.saboteur", rule) if rule else ("-m", "daemon"))
    await daemon.ready()
    return daemon


async def violations(world: World, rule: str, *, calls_max: int | None = None) -> str:
    """What the checker says, at rest or after it never came to rest; the course that breaks nothing has more time."""
    try:
        await world.check(within_s=RED_S if rule else PATIENT_S, overlap_s=3 * LEASE_S, calls_max=calls_max)
    except AssertionError as error:
        return str(error)
    return ""


async def zombie(world: World, rule: str, other: str) -> None:
    """It stands still until another one tells its task, then goes on while that one is at work."""
    first = await saboteur(world, rule)
    await world.publish("t1", tokens=1200)
    await world.seen("t1", "token_batch", within_s=20)
    first.pause()
    await saboteur(world, other)
    await world.seen("t1", "token_batch", attempt=2, within_s=30)
    first.resume()
    await world.ended("t1", within_s=60)
    await asyncio.sleep(LEASE_S)  # what the zombie still has to say


@pytest.mark.parametrize("rule", RULES)
def test_what_a_rule_is_broken_in_is_still_there(rule: str) -> None:
    """Most rules are broken in `make mutate` only; a change that moves one of them is told so in `make test`."""
    command = (sys.executable, "-m", "tests.chaos.saboteur", rule, "--help")
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("rule", ["ack_before_write", pytest.param(UNBROKEN, marks=pytest.mark.long)])
async def test_an_ack_before_the_write_is_seen(world: World, rule: str) -> None:
    """I1: the task is lost with its daemon. The sweeper, which would heal it, sleeps."""
    world.variables["QSTREAMD_COMPARE_S"] = "600"
    if rule:  # nobody will take anything over
        world.variables |= CALM
    first = await saboteur(world, rule)
    await world.publish("t1", tokens=400)
    await world.seen("t1", "token_batch", within_s=20)
    first.kill()
    await world.start_daemon()
    found = await violations(world, rule)
    assert "have not ended" in found if rule else found == "", found


@pytest.mark.long
@pytest.mark.parametrize("rule", ["finish_without_fence", "append_without_fence", "clock_stands_still"])
async def test_a_zombie_that_is_not_fenced_is_seen(world: World, rule: str) -> None:
    """I2, I4 or I8: its late tokens or its result are found. A clock that stands still alone does no harm."""
    await zombie(world, rule, rule)
    found = await violations(world, rule)
    if rule == "clock_stands_still":
        assert found == ""
    else:
        assert any(word in found for word in ("I2", "I4", "I8")), found


@pytest.mark.long
@pytest.mark.parametrize("rule", ["beat_without_owner_check", "clock_stands_still"])
async def test_a_renewal_without_owner_check_is_seen(world: World, rule: str) -> None:
    """I12: the zombie takes the entry back, its rightful owner gives up, and the model is called a third time."""
    await zombie(world, rule, UNBROKEN)
    found = await violations(world, UNBROKEN, calls_max=2)
    assert "I12" in found if rule == "beat_without_owner_check" else found == "", found


@pytest.mark.long
@pytest.mark.parametrize("rule", ["no_nonce", UNBROKEN])
async def test_a_doubled_delta_is_seen(world: World, rule: str) -> None:
    """I2: the text of the last attempt is not the text of the result."""
    async with RedisProxy(world.redis_url) as proxy:
        await saboteur(world, rule, redis_url=proxy.url)
        await world.publish("t1", tokens=800)
        await world.seen("t1", "token_batch", within_s=20)
        proxy.lose_reply("task:t1:events")
        await world.ended("t1", within_s=60)
        assert proxy.lost
        found = await violations(world, rule)
        assert "I2" in found or "I8" in found if rule else found == "", found


@pytest.mark.long
@pytest.mark.parametrize("rule", ["trim_by_count", UNBROKEN])
async def test_a_trim_by_count_is_seen(world: World, rule: str) -> None:
    """I1: what was accepted and not yet read is gone."""
    await world.start_relay(command=("-m", "tests.chaos.saboteur", rule, "relay") if rule else ())
    await world.publish_many([f"t{n}" for n in range(12)])
    await world.start_daemon()
    found = await violations(world, rule)
    assert "7 tasks have not ended" in found if rule else found == "", found


@pytest.mark.long
@pytest.mark.parametrize("rule", ["guard_as_counter", "dead_keep_permits", UNBROKEN])
async def test_a_guard_that_only_counts_is_seen(world: World, rule: str) -> None:
    """I6: the dead daemon's place is never given back. One that waits for the end of its lease does no harm."""
    broken = rule == "guard_as_counter"
    first = await saboteur(world, rule)
    await world.publish("t1", tokens=400)
    await world.seen("t1", "token_batch", within_s=20)
    first.kill()
    await saboteur(world, rule)
    await world.ended("t1", within_s=60)
    found = await violations(world, rule if broken else UNBROKEN)
    assert "places are taken" in found if broken else found == "", found
