"""A daemon dies, hangs or stops: another one finishes its work, and nobody is told two stories."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from daemon.dev.failpoints import STALL_S
from daemon.redis_client import keys
from tests.e2e.processes import DaemonProcess
from tests.e2e.world import CALM, LEASE_S, World, text_of
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)


async def test_a_task_whose_daemon_is_killed_in_mid_stream_is_finished_by_another(world: World) -> None:
    """`started` with attempt 2, the text begins again, exactly one `done`, one result, one crash counted."""
    first = await world.start_daemon()
    await world.publish("t1", tokens=300)
    await world.seen("t1", "token_batch")
    first.kill()
    await world.start_daemon()
    done = await world.ended("t1")
    assert (done["type"], done["attempt"]) == ("done", 2)
    history = await world.check()
    assert [e["attempt"] for e in history.tasks["t1"].events if e["type"] == "started"] == [1, 2]
    assert history.tasks["t1"].results[0]["content"] == text_of("t1", 300)
    assert (await world.row("t1"))["crashes"] == 1


async def test_a_task_ten_leases_long_runs_once(world: World) -> None:
    """Two daemons that sweep one queue all the time: the beat keeps it with the one that began."""
    lease_s = 1.5
    world.variables |= {"QSTREAMD_LEASE_S": "1.5", "QSTREAMD_SELF_FENCE_S": "1.4", "QSTREAMD_SWEEP_S": "1"}
    for _ in range(2):
        await world.start_daemon()
    for task_id in ("t1", "t2"):
        await world.publish(task_id, tokens=int(10 * lease_s * world.tokens_per_s))
        await world.ended(task_id, within_s=40)
        lost = [line for daemon in world.daemons for line in daemon.log("lease.lost") if line["task_id"] == task_id]
        if not lost or not all("no good beat" in line["why"] for line in lost):
            break  # only a daemon that stood still for most of a lease, and stopped in time, may show it once more
    await world.check(overlap_s=lease_s)
    assert world.calls(task_id) == 1 and (await world.row(task_id))["attempt"] == 1


async def test_a_zombie_is_refused_everywhere(world: World) -> None:
    """SIGSTOP for two leases, then SIGCONT: its late tokens, result and ack count for nothing, and are counted."""
    first = await world.start_daemon()
    await world.publish("t1", tokens=600)
    await world.seen("t1", "token_batch")
    first.pause()
    await world.start_daemon()
    await world.seen("t1", "started", attempt=2)
    await asyncio.sleep(LEASE_S)  # the zombie's model goes on talking to a socket that nobody reads
    first.resume()
    # of its next beat, or of its next words: whichever is refused first
    assert (await first.logged("attempt.ended"))["outcome"] == "fenced"
    done = await world.ended("t1")
    assert (done["type"], done["attempt"]) == ("done", 2)
    await world.check(overlap_s=3 * LEASE_S)
    # It lives on and is a good daemon again.
    await world.publish("t2")
    await world.ended("t2")


async def test_a_daemon_that_stood_still_before_its_claim_cuts_nobody(world: World) -> None:
    """It has read the entry, another one takes over and runs it; awake again it claims and is refused."""
    world.variables |= {"NODE_ENV": "development"}
    await world.start_relay(NODE_ENV="development")
    first = await world.start_daemon(QSTREAMD_FAILPOINTS="claim:before=stall")
    await world.publish("t1", tokens=int((STALL_S + 2) * world.tokens_per_s))
    await first.logged("failpoint")
    await world.start_daemon()
    await world.seen("t1", "token_batch")
    await first.logged("failpoint.over")
    assert (await first.logged("attempt.ended"))["outcome"] == "refused"
    done = await world.ended("t1")
    assert (done["type"], done["attempt"]) == ("done", 1)
    await world.check(calls_max=1)
    assert (await world.row("t1"))["crashes"] == 0
    await world.publish("t2")
    await world.ended("t2")


async def test_a_pause_shorter_than_a_lease_changes_nothing(world: World) -> None:
    """F12: no reclaim, no second call."""
    world.variables |= {"QSTREAMD_LEASE_S": "5", "QSTREAMD_SELF_FENCE_S": "4"}
    first = await world.start_daemon()
    await world.start_daemon()
    await world.publish("t1", tokens=500)
    await world.seen("t1", "token_batch")
    for daemon in world.daemons:
        daemon.pause()
    await asyncio.sleep(1)
    for daemon in world.daemons:
        daemon.resume()
    await world.ended("t1")
    assert first.running
    history = await world.check()
    assert history.calls() == 1


@pytest.mark.long
async def test_what_redis_hands_to_a_hanging_idle_daemon_is_not_stranded(world: World) -> None:
    """A blocked read outlives the process that hangs: what is delivered to it is found although it looked dead."""
    hanging = await world.start_daemon()
    hanging.pause()
    second = await world.start_daemon()
    await asyncio.sleep(2 * LEASE_S)  # long enough for the second to have taken it for dead
    began = time.monotonic()
    await world.publish_many([f"t{n}" for n in range(4)])
    for n in range(4):
        await world.ended(f"t{n}", within_s=10)
    assert time.monotonic() - began < 5 * LEASE_S
    hanging.resume()
    await world.check()
    assert second.running and hanging.running


@pytest.mark.long
async def test_all_daemons_killed_at_once_three_times(world: World) -> None:
    """F10: nothing lost, nothing finished twice, although every attempt of two rounds was cut."""
    world.variables["QSTREAMD_CRASHES_MAX"] = "10"  # none gets a process of its own
    await world.publish_many([f"t{n}" for n in range(30)], tokens=1000)  # longer than two daemons need to start
    for _ in range(3):
        daemons = [await world.start_daemon() for _ in range(2)]
        await wait_until(
            lambda: sum(call.ending == "" for call in world.llm.calls) >= 5,
            description="the model is busy",
            within_s=15,
        )
        for daemon in daemons:
            daemon.kill()
    await world.start_daemon()
    history = await world.check(within_s=60)
    assert history.states()["done"] + history.states()["failed"] == 30


# --- stop -------------------------------------------------------------------------------------------------------------


async def test_sigterm_lets_a_running_task_finish(world: World) -> None:
    """One model call, one `done`, exit 0; nothing new is read meanwhile."""
    world.variables |= CALM
    daemon = await world.start_daemon()
    await world.publish("t1", tokens=400)
    await world.seen("t1", "token_batch")
    daemon.signal(signal.SIGTERM)
    await daemon.logged("daemon.draining")
    await world.publish("t2")
    assert await daemon.ended() == 0
    assert (await world.ended("t1"))["type"] == "done"
    assert world.calls("t1") == 1 and world.calls("t2") == 0
    second = await world.start_daemon()
    await world.ended("t2")
    assert await second.stop() == 0
    history = await world.check()
    assert history.calls() == 2 and set(history.consumers.values()) == {0}


async def test_a_graceful_stop_beside_an_idle_daemon_costs_no_second_call(world: World) -> None:
    """The one that runs it ends it; the other one takes what is new and leaves that alone. Nothing is lost."""
    busy, idle = await one_busy_one_idle(world)
    busy.signal(signal.SIGTERM)
    assert (await busy.logged("daemon.draining"))["running"] == 1
    await world.publish("t2")
    await world.ended("t2")
    assert await busy.ended() == 0
    await world.ended("t1")
    history = await world.check(calls_max=1)
    assert history.calls() == 2 and history.states() == {"done": 2}
    assert (await world.row("t1"))["attempt"] == 1
    assert [[line["task_id"] for line in daemon.log("attempt.ended")] for daemon in (busy, idle)] == [["t1"], ["t2"]]
    assert idle.running and set(history.consumers.values()) == {1}


async def test_a_second_sigterm_hands_back_at_once(world: World) -> None:
    """Another daemon runs it in under 2 s, and neither a failure nor a crash is counted."""
    busy, idle = await one_busy_one_idle(world)
    busy.signal(signal.SIGTERM)
    await busy.logged("daemon.draining")
    began = time.monotonic()
    busy.signal(signal.SIGTERM)
    await world.seen("t1", "started", attempt=2)
    took_s = time.monotonic() - began
    assert took_s < 5, (
        took_s
    )  # 2 s and what a busy machine adds (0.1 s on a quiet one); the lease, or a drain, takes 20
    assert await busy.ended(5) == 0
    await world.ended("t1")
    await world.check()
    row = await world.row("t1")
    assert (row["attempt"], row["failures"], row["crashes"]) == (2, 0, 0)
    assert [line["task_id"] for line in idle.log("attempt.ended")] == ["t1"]


async def one_busy_one_idle(world: World) -> tuple[DaemonProcess, DaemonProcess]:
    """Two daemons that are up; the first one runs `t1`, for some seconds yet. Nobody takes over within a lease."""
    world.variables |= CALM
    daemons = {}
    for _ in range(2):
        daemon = await world.start_daemon()
        daemons[daemon.log("daemon.started")[0]["consumer"]] = daemon
    await world.publish("t1", tokens=800)
    await world.seen("t1", "token_batch")
    [entry] = await world.redis.xpending_range(keys.queue_keys("q_paid_stream").tasks, keys.GROUP, "-", "+", 10)
    busy = daemons.pop(entry["consumer"])
    return busy, daemons.popitem()[1]


async def test_an_idle_daemon_stops_at_once(world: World) -> None:
    """A blocked read is woken, not waited for."""
    daemon = await world.start_daemon(QSTREAMD_REDIS_BLOCK_S="30")
    began = time.monotonic()
    assert await daemon.stop() == 0
    assert time.monotonic() - began < 10
