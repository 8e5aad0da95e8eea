"""What a process may cost: time to start, memory, commands while idle, flushes a task."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from redis.asyncio import Redis

from daemon.config import catalogue
from daemon.config.profiles import PROFILES
from daemon.domain.queues import DEFAULT_QUEUES
from tests.e2e.world import World
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)
ALL = ",".join(DEFAULT_QUEUES)
#: as shipped: nothing of the fast times
SHIPPED = dict.fromkeys(
    (
        "QSTREAMD_LEASE_S", "QSTREAMD_BEAT_S", "QSTREAMD_SELF_FENCE_S", "QSTREAMD_LIVENESS_S", "QSTREAMD_COMPARE_S",
        "QSTREAMD_LIVENESS_TTL_S", "QSTREAMD_REDIS_BLOCK_S", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG",
    ), "",
)  # fmt: skip


def aiohttp_imports_in() -> float:
    """Seconds this machine takes now for a Python that imports one library: its pace."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import aiohttp"], check=True)
    return time.monotonic() - began


async def test_ready_within_a_second_and_small(world: World) -> None:
    """From start to reading all six queues in 1 s on a machine that imports aiohttp in 0.25 s; 95 MB when idle."""
    best = float("inf")
    for _ in range(3):
        pace = aiohttp_imports_in()
        daemon = world.new_daemon(ALL, **SHIPPED)
        daemon.start()
        best = min(best, await daemon.ready() / max(1.0, pace / 0.25))
        resident = daemon.resident_kb()
        assert await daemon.stop() == 0
    assert best <= 1.0
    assert resident <= 95 * 1024


#: everything that an idle process waits for, ten times as fast: a minute is six seconds
TENTH = {
    "QSTREAMD_REDIS_BLOCK_S": "3", "QSTREAMD_LIVENESS_S": "0.5", "QSTREAMD_LIVENESS_TTL_S": "1.1",
    "QSTREAMD_LEASE_S": "2", "QSTREAMD_BEAT_S": "0.5", "QSTREAMD_SELF_FENCE_S": "1.5",
    "QSTREAMD_SWEEP_S": "30", "QSTREAMD_RECONCILE_S": "3", "QSTREAMD_COMPARE_S": "6",
}  # fmt: skip


async def sent_within(world: World, seconds: float) -> list[str]:
    """What all clients send; what scripts run inside is left out."""
    sent = []
    async with (
        Redis.from_url(world.redis_url, decode_responses=True, socket_timeout=None) as client,
        client.monitor() as monitor,
    ):
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    seen = await monitor.next_command()
                    if seen["client_type"] != "lua":
                        sent.append(seen["command"][:60])
    return sent


async def test_an_idle_daemon_sends_few_commands(world: World) -> None:
    """All six queues: at most 29 a minute, those inside scripts not counted."""
    assert {name: float(value) * 10 for name, value in TENTH.items()} == {
        entry.name: entry.default for _, entry in catalogue() if entry.name in TENTH
    }
    await world.start_daemon(ALL, **TENTH)
    await asyncio.sleep(1)  # what a start costs is not what idling costs
    sent = await sent_within(world, 11.9)
    assert len(sent) <= 2 * 29, sent


#: the same of the metered profile, twenty times as fast
TWENTIETH = {
    "QSTREAMD_REDIS_BLOCK_S": "6", "QSTREAMD_LIVENESS_S": "1", "QSTREAMD_LIVENESS_TTL_S": "2.25",
    "QSTREAMD_LEASE_S": "3", "QSTREAMD_BEAT_S": "0.75", "QSTREAMD_SELF_FENCE_S": "2.25",
    "QSTREAMD_SWEEP_S": "90", "QSTREAMD_RECONCILE_S": "3", "QSTREAMD_COMPARE_S": "15",
}  # fmt: skip


async def test_an_idle_daemon_in_the_metered_profile_sends_fewer(world: World) -> None:
    """At most 12 a minute for six queues, and the log says what that is in a month."""
    assert all(PROFILES["metered"][name] == float(value) * 20 for name, value in TWENTIETH.items())
    daemon = await world.start_daemon(ALL, QSTREAMD_REDIS_PROFILE="metered", **TWENTIETH)
    await asyncio.sleep(1)
    sent = await sent_within(world, 5.9)
    assert len(sent) <= 2 * 12, sent
    [begun] = daemon.log("daemon.started")
    assert begun["idle_commands_a_month"] / 20 <= 12 * 60 * 24 * 30
    assert not daemon.log("redis.does_not_block")


@pytest.mark.long
@pytest.mark.parametrize(("profile", "most"), [("standard", 29), ("metered", 12)])
async def test_an_idle_daemon_sends_few_commands_with_shipped_times(world: World, profile: str, most: int) -> None:
    """The same, not hurried: a whole minute."""
    await world.start_daemon(ALL, **SHIPPED, QSTREAMD_REDIS_PROFILE=profile)
    await asyncio.sleep(2)
    sent = await sent_within(world, 60)
    assert len(sent) <= most, sent


async def test_a_task_costs_four_flushes(world: World) -> None:
    """Guards; place and `started`; done and release; ack. Token batches, the shared read and the beat come on top."""
    daemon = await world.start_daemon("q_paid_batch", NODE_ENV="development", QSTREAMD_FAILPOINTS="*:before=print")
    await world.start_relay(NODE_ENV="development")
    await world.publish("warm", queue="q_paid_batch")
    await world.ended("warm")
    await world.quiescent()
    before = len(daemon.log("failpoint"))
    await world.publish("t1", queue="q_paid_batch")
    await world.ended("t1")
    await world.quiescent()
    await wait_until(lambda: len(daemon.log("attempt.ended")) == 2, description="both are reported")
    effects = [line["effect"] for line in daemon.log("failpoint")[before:]]
    beside = {
        "liveness",
        "renew_leases",
        "heartbeat",
        "renew_permits",
        "sweep_permits",
        "reclaim",
        "read",
        "other",
        "forgotten",
        "promote",
        # upkeep, whose turn may come now
        *("reconcile", "expire_reservations", "rescue_stranded", "delete_consumer", "forget_consumers"),
        *("depths", "shared_depths"),
    }
    own = [effect for effect in effects if not set(effect.split("+")) <= beside and effect != "fetch"]
    statements = [effect for effect in own if effect in ("claim", "finish")]
    assert statements == ["claim", "finish"]
    assert len(own) - len(statements) <= 4, own
