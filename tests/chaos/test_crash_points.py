"""kill -9, an unforeseen error, a lost reply and a standstill right before and after each effect of a daemon.

After each of them a second daemon takes over, and the whole history is held to the invariants. `make test` runs a
sample, `make chaos` all.
"""

from __future__ import annotations

from dataclasses import dataclass
from signal import SIGTERM
from typing import Final

import pytest
from _pytest.mark import ParameterSet

from tests.e2e.world import LEASE_S, World
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)


@dataclass(frozen=True)
class Course:
    """A way through the daemon: the service that takes it, and its effects in the order in which they happen."""

    name: str
    service: str
    effects: tuple[str, ...]
    stops: bool = False  #: SIGTERM twice while the model writes


BEGINS: Final = ("read", "guard_enter", "claim", "begin+append")
COURSES: Final = (
    Course("done", "plain", (*BEGINS, "append", "beat", "heartbeat", "finish", "append+guard_release", "ack")),
    Course("retry", "f-cut-once", ("leave", "append+guard_release", "park", "promote", "fetch")),
    Course("dead", "f-blocked", ("leave", "append+guard_release", "dead_letter")),
    Course("deferred", "f-429-after-1-once", ("leave", "append+guard_release", "park", "promote")),
    Course("stop", "plain", ("leave", "append+guard_release", "hand_back", "bury", "forget"), stops=True),
)
ACTIONS: Final = ("kill", "raise", "lose", "stall")
CASES: Final = [
    (course, effect, when, action)
    for course in COURSES
    for effect in course.effects
    for when in ("before", "after")
    for action in ACTIONS
    # what was not sent has no reply to lose
    if not (action == "lose" and (when == "before" or effect == "read"))
    # a blocked read that has an entry has happened
    if not (effect == "read" and when == "before")
]
"""Each case: course, effect, before or after, what happens there."""

#: what `make test` holds: one of each kind, and each that was a bug once
SAMPLE: Final = set(
    """
    done-begin+append-after-lose done-claim-after-raise done-append-after-stall done-finish-after-kill
    done-finish-after-raise done-append+guard_release-after-lose done-ack-before-kill retry-leave-after-lose
    retry-park-after-kill retry-promote-before-raise dead-dead_letter-after-stall stop-hand_back-before-kill
    """.split()
)


def _case(course: Course, effect: str, when: str, action: str) -> ParameterSet:
    name = f"{course.name}-{effect}-{when}-{action}"
    return pytest.param(course, effect, when, action, id=name, marks=() if name in SAMPLE else pytest.mark.long)


@pytest.mark.parametrize(("course", "effect", "when", "action"), [_case(*case) for case in CASES])
async def test_a_daemon_may_fail_there(world: World, course: Course, effect: str, when: str, action: str) -> None:
    """Exactly one end, one result, nothing left behind, and no model call once the result was committed."""
    first = world.new_daemon(NODE_ENV="development", QSTREAMD_FAILPOINTS=f"{effect}:{when}={action}")
    world.variables["NODE_ENV"] = "development"
    first.start()
    await world.start_relay(NODE_ENV="development")
    await first.ready()
    if effect == "read":  # what comes before the reader blocks is fetched by a script
        await wait_until(lambda: _blocked(world), description="both queues have a blocked reader")
    tokens = 120 if course.stops or effect in ("append", "beat", "heartbeat") else 20
    await world.publish("t1", course.service, tokens=tokens)
    if course.stops:
        await world.seen("t1", "token_batch")
        first.signal(SIGTERM)
        await first.logged("daemon.draining")
        first.signal(SIGTERM)
    await first.logged("failpoint")
    if action == "kill":
        assert await first.ended() == -9
    await world.start_daemon()
    end = await world.ended("t1")
    history = await world.check(overlap_s=2 * LEASE_S if action == "stall" else 0.0)
    assert end["type"] == ("error" if course.name == "dead" else "done"), end
    committed_once = course.name == "done" and (effect, when) in {
        ("finish", "after"), ("append+guard_release", "before"), ("append+guard_release", "after"), ("ack", "before"),
        ("ack", "after"),
    }  # fmt: skip
    if committed_once:
        assert history.calls() == 1


async def _blocked(world: World) -> bool:
    return bool((await world.redis.info("clients"))["blocked_clients"] >= 2)
