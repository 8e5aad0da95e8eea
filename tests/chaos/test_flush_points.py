"""FLUSHALL right before and after each effect of a daemon: no read task is lost, and none is paid twice.

The daemon stands still there, shorter than its lease, while Redis forgets all it knew.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import pytest

from tests.chaos.side_by_side import Case, SideBySide
from tests.chaos.test_crash_points import COURSES, PASS, TOKENS, blocked
from tests.e2e.world import QUEUES, World
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

#: longer than the standstill, so that only the flush is to blame
LEASE: Final = {"QSTREAMD_LEASE_S": "10", "QSTREAMD_BEAT_S": "0.5", "QSTREAMD_SELF_FENCE_S": "9"}
EFFECTS: Final = COURSES[0].effects
BEGUN: Final = ("append", "finish", "append+release_permits", "ack")  #: a beat may come before the attempt begins


@pytest.mark.parametrize("when", ["before", "after"])
async def test_redis_may_forget_everything_there(side_by_side: SideBySide, when: str) -> None:
    """One model call, one result, nothing left behind."""
    effects = [effect for effect in EFFECTS if (effect, when) != ("read", "before")]  # what comes before has no entry
    cases: dict[str, Case] = {f"{effect}-{when}-flush": partial(forgets_there, effect, when) for effect in effects}
    await side_by_side.run(cases)


async def forgets_there(effect: str, when: str, world: World) -> None:
    """One case."""
    world.variables |= {"NODE_ENV": "development", **LEASE}
    await world.start_relay(NODE_ENV="development")
    setting = f"{effect}:{when}=stall@{PASS.get(effect, 1)}"
    daemon = await world.start_daemon(QUEUES, QSTREAMD_FAILPOINTS=setting)
    if effect == "read":
        await wait_until(lambda: blocked(world), description="both queues have a blocked reader")
    await world.publish("t1", tokens=TOKENS.get(effect, 20))
    await daemon.logged("failpoint")
    await world.redis.flushdb()
    await daemon.logged("failpoint.over")
    await world.publish("after")
    await world.check(events_lost=True, calls_max=1, within_s=60)
    row = await world.row("t1")
    assert daemon.running and row["state"] == "done"
    if effect in BEGUN:  # before, the claim is put back, and the task comes back from its row
        assert row["attempt"] == 1
