"""One task kills every process that runs it: it alone is convicted, in a child process, and the others go on."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from daemon.redis_client import keys
from tests.e2e.processes import DaemonProcess
from tests.e2e.world import CALM, World
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

QUEUE: Final = "q_paid_stream"
NAMES: Final = keys.queue_keys(QUEUE)
#: kills whatever process is about to commit the result of this task: its call is paid
POISON: Final = {"NODE_ENV": "development", "QSTREAMD_FAILPOINTS": "finish:before=kill#poison"}
#: a test kills one daemon after the other; deaths are proved, so no lease has to run out
IN_TWO_CRASHES: Final = 2


@pytest.mark.parametrize("at_both", [4, pytest.param(20, marks=pytest.mark.long)])
async def test_a_poison_convicts_only_itself(world: World, at_both: int) -> None:
    """Twenty tasks run beside it, some at both crashes: all are done, and no call is paid more than three times."""
    world.variables |= CALM | POISON | {"QSTREAMD_GUARD_RETRY_S": "2"}
    await world.start_relay(NODE_ENV="development")
    innocent = [f"t{n}" for n in range(20)]
    await world.publish("poison", tokens=100)
    await world.publish_many(innocent[:at_both], tokens=600)
    for _ in range(IN_TWO_CRASHES):
        daemon = await world.start_daemon()
        assert await daemon.ended(30) == -signal.SIGKILL
        await world.publish_many(innocent[at_both:], tokens=600)
    third = await world.start_daemon()
    end = await world.ended("poison", within_s=60)
    assert (end["code"], end["retryable"]) == ("WORKER_LOST", False)
    history = await world.check(within_s=120)
    assert history.states() == {"done": 20, "failed": 1}
    assert await dead_letters(world) == [("poison", "WORKER_LOST")]
    assert (await world.row("poison"))["crashes"] == 3 and world.calls("poison") == 3
    assert max(world.calls(task_id) for task_id in innocent) <= 3
    assert third.running and ends(third).count("convicted") == 1
    assert await third.stop() == 0


async def test_one_crash_convicts_nobody(world: World) -> None:
    """200 in flight, one SIGKILL: all run again at once, beside each other, and are done."""
    world.variables |= CALM | {"QUEUE_PARALLELISM_PAID_STREAM": "200", "USER_CONCURRENCY_PAID": "200"}
    tasks = [f"t{n}" for n in range(200)]
    first = await world.start_daemon()
    await world.publish_many(tasks, tokens=1500)
    await wait_until(lambda: len(world.llm.calls) == 200, description="all are in flight", within_s=60)
    first.kill()
    second = await world.start_daemon()
    history = await world.check(within_s=90)
    assert history.states() == {"done": 200} and history.calls() == 400
    assert await dead_letters(world) == [] and not second.log("quarantine.ended")


async def test_an_end_in_quarantine_clears(world: World) -> None:
    """An attempt that fails there is one like any other: the next one runs among the others again."""
    world.variables |= CALM
    third = await in_quarantine(world, service="hang-once", tokens=400)
    end = await world.ended("t1", within_s=60)
    assert end["type"] == "done"
    await third.logged("quarantine.ended", within_s=20)
    assert ends(third) == ["settled"]
    await world.check()
    assert await dead_letters(world) == []


async def test_nobody_saw_a_child_die_whose_parent_died_with_it(world: World) -> None:
    """The task runs in quarantine again, and is not convicted."""
    world.variables |= CALM
    third = await in_quarantine(world)
    child = await child_pid(third)
    third.kill()
    os.kill(child, signal.SIGKILL)
    fourth = await world.start_daemon()
    await fourth.logged("quarantine.began", within_s=30)
    assert (await world.ended("t1", within_s=60))["type"] == "done"
    await world.check()
    assert await dead_letters(world) == [] and (await world.row("t1"))["crashes"] == 3


async def test_a_child_goes_on_when_its_parent_is_killed(world: World) -> None:
    """It is an owner of its own: no other process takes its task, and its call is not paid again."""
    world.variables |= CALM
    third = await in_quarantine(world)
    third.kill()
    fourth = await world.start_daemon()
    assert (await world.ended("t1", within_s=60))["type"] == "done"
    assert world.calls("t1") == 3
    await world.check()
    assert not fourth.log("quarantine.began")


async def test_a_child_that_hangs_is_killed_and_its_task_convicted(world: World) -> None:
    """It renews nothing, so its parent needs no deadline to see it."""
    world.variables |= {"QSTREAMD_LEASE_S": "8", "QSTREAMD_BEAT_S": "1", "QSTREAMD_SELF_FENCE_S": "7"}
    third = await in_quarantine(world)
    os.kill(await child_pid(third), signal.SIGSTOP)
    assert (await world.ended("t1", within_s=30))["code"] == "WORKER_LOST"
    await third.logged("quarantine.hung")
    await world.check()
    assert await dead_letters(world) == [("t1", "WORKER_LOST")] and third.running


async def test_a_child_may_start_for_longer_than_a_lease(world: World) -> None:
    """Its parent renews the lease for it: nobody takes the task, and no second child is started."""
    lease_s = 4.0
    world.variables |= {"QSTREAMD_LEASE_S": str(lease_s), "QSTREAMD_BEAT_S": "0.5", "QSTREAMD_SELF_FENCE_S": "3.5"}
    await world.publish("t1", tokens=400)
    await killed(world, "t1", times=IN_TWO_CRASHES)
    third = await world.start_daemon()
    child = await wait_until(lambda: child_of(third.pid), description="a child process")
    os.kill(child, signal.SIGSTOP)
    await asyncio.sleep(1.5 * lease_s)
    os.kill(child, signal.SIGCONT)
    assert (await world.ended("t1", within_s=60))["type"] == "done"
    await third.logged("quarantine.ended", within_s=30)
    assert ends(third) == ["settled"] and len(third.log("quarantine.began")) == 1
    await world.check()


async def test_the_kernel_ends_a_child_first_when_memory_is_short(world: World) -> None:
    """Its score says so; what the kernel then does to it convicts the task, and the daemon goes on."""
    world.variables |= CALM
    third = await in_quarantine(world)
    child = await child_pid(third)
    scores = [oom_score(pid) for pid in (third.pid, child)]
    assert scores[1] >= scores[0] + 500
    os.kill(child, signal.SIGKILL)
    assert (await world.ended("t1", within_s=30))["code"] == "WORKER_LOST"
    await world.check()
    assert third.running


async def test_a_full_quarantine_holds_up_nobody(world: World) -> None:
    """One child at a time, one ordinary slot: what waits for quarantine has no slot, and new tasks run meanwhile."""
    world.variables |= CALM | {"QSTREAMD_QUARANTINE_SLOTS": "1", "QSTREAMD_GUARD_RETRY_S": "2"}
    tasks = ["t1", "t2", "t3"]
    third = await in_quarantine(world, *tasks, QUEUE_PARALLELISM_PAID_STREAM="1")
    await world.publish("new", tokens=20)
    assert (await world.ended("new"))["type"] == "done"
    assert not any([await world.sql("SELECT 1 FROM qstreamd.tasks WHERE task_id <> 'new' AND state = 'done'")])
    history = await world.check(within_s=90)
    assert history.states() == {"done": 4}
    running = 0  # children that have a task
    for line in third.log():
        running += (line["event"] == "quarantine.began") - (line["event"] == "quarantine.ended")
        assert running <= 1
    await wait_until(lambda: ends(third) == ["settled"] * 3, description="three children have ended")


async def test_without_quarantine_the_third_crash_is_the_last(world: World) -> None:
    """The rule for a daemon that starts no child."""
    world.variables |= CALM | {"QSTREAMD_QUARANTINE_SLOTS": "0"}
    await world.publish("t1", tokens=2000)
    await killed(world, "t1", times=3)
    await world.start_daemon()
    assert (await world.ended("t1"))["code"] == "WORKER_LOST"
    await world.check()
    assert await dead_letters(world) == [("t1", "WORKER_LOST")]


async def test_a_drain_waits_for_a_child(world: World) -> None:
    """SIGTERM: the child ends its task, then its parent ends."""
    world.variables |= CALM
    third = await in_quarantine(world)
    assert await third.stop(within_s=40) == 0
    assert (await world.ended("t1"))["type"] == "done" and world.calls("t1") == 3
    await world.check()


async def test_a_second_sigterm_lets_a_child_hand_its_task_back(world: World) -> None:
    """At once, without a crash; another daemon runs it in quarantine, for it may still be a poison."""
    world.variables |= CALM
    third = await in_quarantine(world)
    third.signal(signal.SIGTERM)
    await third.logged("daemon.draining")
    third.signal(signal.SIGTERM)
    assert await third.ended(15) == 0
    row = await world.row("t1")
    assert (row["state"], row["crashes"]) == ("queued", 2)
    fourth = await world.start_daemon()
    await fourth.logged("quarantine.began", within_s=30)
    assert (await world.ended("t1", within_s=60))["type"] == "done"
    await world.check()


# --- helpers ----------------------------------------------------------------------------------------------------------


async def in_quarantine(
    world: World, *tasks: str, service: str = "plain", tokens: int = 1500, **variables: str
) -> DaemonProcess:
    """A daemon whose child runs `t1`, which was in two crashes before; the other tasks were too."""
    named = tasks or ("t1",)
    for task_id in named:
        await world.publish(task_id, service, tokens=tokens)
    await killed(world, *named, times=IN_TWO_CRASHES)
    third = await world.start_daemon(**variables)
    await third.logged("quarantine.began", within_s=30)
    return third


async def killed(world: World, *tasks: str, times: int) -> None:
    """So many daemons in a row, each killed while it runs all of the tasks."""
    for attempt in range(1, times + 1):
        daemon = await world.start_daemon()
        for task_id in tasks:
            await world.seen(task_id, "token_batch", attempt=attempt)
        daemon.kill()


async def child_pid(daemon: DaemonProcess) -> int:
    """Of the child that runs a task now; its name holds it."""
    line = await daemon.logged("quarantine.began", within_s=30)
    return int(line["consumer"].split("-")[-2])


def child_of(parent: int) -> int | None:
    """A process that `parent` has started."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if stat.read_text("ascii", "replace").rpartition(")")[2].split()[1] == str(parent):
                return int(stat.parent.name)
    return None


async def dead_letters(world: World) -> list[tuple[str, str]]:
    """Task and code of each."""
    letters = await world.redis.xrange(NAMES.dead)
    return [(fields["taskId"], fields["code"]) for _, fields in letters]


def ends(daemon: DaemonProcess) -> list[str]:
    """What became of each child, in order."""
    return [line["outcome"] for line in daemon.log("quarantine.ended")]


def oom_score(pid: int) -> int:
    """What the kernel adds to the badness of a process."""
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text("ascii"))
