"""kill -9, an unforeseen error, a lost reply and a standstill right before and after each effect of a daemon.

After each of them a second daemon takes over, and the whole history is held to the invariants. All cases run in
`make test`, some at once; `--point done-finish-after-kill` runs those whose name holds that.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from signal import SIGTERM
from typing import Final

import pytest

from daemon.dev.failpoints import STALL_S
from daemon.redis_client import keys
from tests.chaos.side_by_side import Case, SideBySide
from tests.e2e.processes import DaemonProcess
from tests.e2e.world import QUEUES, World
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

QUEUE: Final = "q_paid_stream"


@dataclass(frozen=True)
class Course:
    """A way through the daemon: the service that takes it, and its effects in the order in which they happen."""

    name: str
    service: str
    effects: tuple[str, ...]
    begins: str = "reads"  #: or with what is left to it: a `backlog`, or the task of one who died here, or elsewhere
    stops: bool = False  #: SIGTERM twice while the model writes
    crashes_max: int = 50  #: 2: after one crash the task is given to a child


BEGINS: Final = ("read", "acquire_permits", "claim", "begin+append")
COURSES: Final = (
    Course(
        "done", "plain", (*BEGINS, "append", "renew_leases", "heartbeat", "finish", "append+release_permits", "ack")
    ),
    Course("backlog", "plain", ("fetch",), begins="backlog"),
    Course("reclaim", "hang-once", ("reclaim", "claim", "finish"), begins="died elsewhere"),
    Course("proved", "hang-once", ("take_over", "reassign_permits", "claim"), begins="died here"),
    Course("quarantine", "hang-once", ("leave", "release_permits"), begins="died here", crashes_max=2),
    Course("retry", "f-cut-once", ("leave", "append+release_permits", "snooze", "promote")),
    Course("dead", "f-blocked", ("leave", "append+release_permits", "dead_letter")),
    Course("deferred", "f-429-after-1-once", ("leave", "append+release_permits", "snooze", "promote")),
    Course(
        "stop",
        "hang-once",
        ("leave", "append+release_permits", "requeue", "delete_consumer", "forget_consumers"),
        stops=True,
    ),
)
ACTIONS: Final = ("kill", "raise", "lose", "stall")
#: which pass is meant where it is not the first: the first `append` is that of `started`
PASS: Final = {"append": 2}
#: what every queue of a daemon does at its start: only that of the task is meant
SHARED: Final = ("fetch", "reclaim", "take_over")
#: long enough for a few beats
TOKENS: Final = {"renew_leases": 300, "heartbeat": 300}
#: of all: a machine that stands still for a second fences nobody
LEASE_S: Final = 2.0
LEASE: Final = {"QSTREAMD_LEASE_S": "2", "QSTREAMD_SELF_FENCE_S": "1.5"}
LONGER: Final = {"QSTREAMD_LEASE_S": "4", "QSTREAMD_SELF_FENCE_S": "3.5"}


@dataclass(frozen=True)
class Point:
    """One case: where, and what happens there."""

    course: Course
    effect: str
    when: str
    action: str

    @property
    def name(self) -> str:
        """As it is told and asked for."""
        return f"{self.course.name}-{self.effect}-{self.when}-{self.action}"

    @property
    def setting(self) -> str:
        """For `QSTREAMD_FAILPOINTS`."""
        return f"{self.effect}:{self.when}={self.action}@{PASS.get(self.effect, 1)}"

    @property
    def end(self) -> str:
        """The type of the terminal event."""
        # what breaks again before its attempt has begun, after somebody died of it, does not go round for ever
        broke_again = (self.course.begins[:4], self.effect, self.action) == ("died", "claim", "raise")
        return "error" if broke_again or self.course.name == "dead" else "done"

    @property
    def after_the_commit(self) -> bool:
        """Whether the result is durable there: no other model call may be made."""
        row = ("finish", "append+release_permits", "ack")
        return self.course.name == "done" and self.effect in row and (self.effect, self.when) != ("finish", "before")


POINTS: Final = [
    Point(course, effect, when, action)
    for course in COURSES
    for effect in course.effects
    for when in ("before", "after")
    for action in ACTIONS
    # what was not sent has no reply to lose
    if not (action == "lose" and (when == "before" or effect == "read"))
    # a blocked read that has an entry has happened
    if not (effect == "read" and when == "before")
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("course", [course.name for course in COURSES])
async def test_a_daemon_may_fail_there(side_by_side: SideBySide, course: str, when: str) -> None:
    """Exactly one end, one result, nothing left behind, and no model call once the result was committed."""
    points = [point for point in POINTS if (point.course.name, point.when) == (course, when)]
    points.sort(key=lambda point: point.action != "stall")  # what takes longest begins first
    cases: dict[str, Case] = {point.name: partial(fails_there, point) for point in points}
    await side_by_side.run(cases)


async def fails_there(point: Point, world: World) -> None:
    """One case."""
    stalls = point.action == "stall"
    world.variables |= {"NODE_ENV": "development", "QSTREAMD_CRASHES_MAX": str(point.course.crashes_max), **LEASE}
    await world.start_relay(NODE_ENV="development")
    first = await begun(point, world)
    if point.course.stops:
        await world.seen("t1", "token_batch")
        first.signal(SIGTERM)
        await first.logged("daemon.draining")
        first.signal(SIGTERM)
    await first.logged("failpoint")
    if point.action == "kill":
        assert await first.ended() == -9
    await world.start_daemon()
    end = await world.ended("t1", within_s=60)  # a child takes seconds to start on a busy machine
    if stalls:  # what it still had to say when it woke is part of the history
        await first.logged("failpoint.over")
        await first.stop()
    # the call of one who stands still is open until he wakes and notices
    history = await world.check(overlap_s=STALL_S + LEASE_S if stalls else 0.0)
    assert end["type"] == point.end, end
    if point.after_the_commit:
        assert history.calls() == 1


async def begun(point: Point, world: World) -> DaemonProcess:
    """The daemon that will fail, on its way there, and `t1` accepted."""
    publish = partial(world.publish, "t1", point.course.service, tokens=TOKENS.get(point.effect, 20))
    first = world.new_daemon(QUEUE if point.effect in SHARED else QUEUES, QSTREAMD_FAILPOINTS=point.setting)
    match point.course.begins:
        case "died elsewhere" | "died here" as where:
            victim = await world.start_daemon(**LONGER)
            await publish()
            await world.seen("t1", "token_batch")
            victim.kill()
            if where == "died elsewhere":
                await world.redis.delete(keys.PROCESSES)
                await wait_until(lambda: _lapsed(world), description="the lease of the dead has run out")
        case "backlog":
            await publish()
    first.start()
    await first.ready()
    if point.course.begins == "reads":
        if point.effect == "read":  # what comes before the reader blocks is fetched by a script
            await wait_until(lambda: blocked(world), description="both queues have a blocked reader")
        await publish()
    return first


async def blocked(world: World) -> bool:
    """Each queue has a reader that waits for entries."""
    ours = str(world.redis.get_connection_kwargs()["db"])
    clients = await world.redis.client_list(_type="normal")
    reading = [c for c in clients if c["name"].startswith("qstreamd-read-") and c["db"] == ours and "b" in c["flags"]]
    return len(reading) == 2


async def _lapsed(world: World) -> bool:
    [entry] = await world.redis.xpending_range(keys.queue_keys(QUEUE).tasks, keys.GROUP, "-", "+", 10)
    return bool(entry["time_since_delivered"] > LEASE_S * 1000)
