"""The whole of it on a Redis Cluster and behind Sentinel, and the primaries that die meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from daemon.redis_client import keys
from tests.e2e import gateway_world
from tests.e2e.world import World
from tests.integration.gateway.frames import all_events
from tests.redis_clusters import EmbeddedCluster, EmbeddedSentinel
from tests.waiting import WaitUntil

pytestmark = pytest.mark.timeout(180)
QUEUE = "q_paid_stream"
#: six servers share this machine with two daemons: stalls of a second must fence nobody
STEADY = {"QSTREAMD_LEASE_S": "3", "QSTREAMD_SELF_FENCE_S": "2.5", "QSTREAMD_REDIS_CONNECT_TIMEOUT_S": "1"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedCluster]:
    """Three primaries, a replica of each."""
    with EmbeddedCluster(replicas=True) as cluster:
        yield cluster


@pytest.fixture
async def world(cluster: EmbeddedCluster, postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    cluster.flush()
    async with World(cluster.url, postgres_url, tmp_path) as world:
        yield world


@pytest.fixture
async def front(cluster: EmbeddedCluster, postgres_url: str) -> AsyncIterator[gateway_world.World]:
    cluster.flush()
    async with gateway_world.world(cluster.url, postgres_url) as found:
        yield found


async def test_a_task_is_submitted_followed_and_cancelled(front: gateway_world.World, wait_until: WaitUntil) -> None:
    """Relay, daemon and gateway on one cluster: what a front end sees is the same."""
    task = await front.submit(taskId="t1")
    headers = {"Accept": "text/event-stream"}
    async with front.http.get(f"{front.url}{task['sseUrl']}?token={task['token']}", headers=headers) as answer:
        seen = await all_events(answer)
    assert [seen[0].event, seen[1].event, seen[-1].event] == ["queued", "started", "done"]
    assert await front.events(task) == [{"id": f.id, **f.data} for f in seen]
    several = [await front.submit(taskId=f"many-{n}", tier="free") for n in range(6)]  # on all three nodes
    for one in several:
        assert (await front.events(one))[-1]["type"] == "done"
    task = await front.submit(variables={"resume": "long", "role": "chatterbox"})
    await front.started(task["taskId"])
    status, _ = await front.call("POST", f"/api/tasks/{task['taskId']}/cancel")
    assert status in {200, 202}
    assert (await front.events(task))[-1]["code"] == "CANCELLED"


async def test_an_operator_pauses_and_looks(front: gateway_world.World, wait_until: WaitUntil) -> None:
    """The word reaches the daemon through another node than the one that it was said to."""
    daemon = front.parts["daemon"]
    for order, paused in (("pause", True), ("resume", False)):
        await front.redis.hset(keys.queue_keys(QUEUE).control, "paused", str(int(paused)))
        await front.redis.publish(keys.CONTROL_CHANNEL, QUEUE)
        said = f"queue.{order}d"
        await wait_until(lambda said=said: said in daemon.log_path.read_text("utf-8"), description=said)
    _, queues = await front.call("GET", "/api/queues")
    assert QUEUE in str(queues)


async def test_a_killed_daemon_is_taken_over_from(world: World) -> None:
    """Leases, attempts and places, each on its own node."""
    world.variables |= STEADY
    first = await world.start_daemon()
    await world.publish_many([f"t{n}" for n in range(8)], tokens=300)
    await world.seen("t7", "token_batch")
    first.kill()
    await world.start_daemon()
    history = await world.check(within_s=40)
    assert all(len(task.results) == 1 for task in history.tasks.values())


async def one_result_each(world: World, count: int) -> None:
    """All are done, with the whole text. What a dying primary had not told its replica is the limit of the promise."""
    rows = await world.sql(
        "SELECT state, count(*), count(DISTINCT r.task_id) AS results FROM qstreamd.tasks t"
        " LEFT JOIN qstreamd.results r USING (task_id) GROUP BY state"
    )
    assert [tuple(row) for row in rows] == [("done", count, count)]


async def test_the_primary_of_a_queue_dies_in_mid_work(world: World, cluster: EmbeddedCluster) -> None:
    """Its replica has what was written; daemons and relay go on without a restart, and each task ends once."""
    world.variables |= {
        "QSTREAMD_LEASE_S": "3",
        "QSTREAMD_SELF_FENCE_S": "2.5",
        "QSTREAMD_REDIS_CONNECT_TIMEOUT_S": "1",
    }
    for _ in range(2):
        await world.start_daemon()
    names = keys.queue_keys(QUEUE)
    await world.publish_many([f"t{n}" for n in range(60)], tokens=200)
    dead = cluster.servers[cluster.holder_of(names.tasks)]
    with dead.client() as plain:
        assert await asyncio.to_thread(plain.execute_command, "WAIT", 1, 4000) == 1
    await asyncio.to_thread(dead.kill)
    try:
        await world.publish("late")
        await world.quiescent(within_s=90)
        await one_result_each(world, 61)
        assert all(daemon.running for daemon in world.daemons)
    finally:
        await asyncio.to_thread(dead.start)


async def test_the_primary_behind_sentinel_dies_in_mid_work(postgres_url: str, tmp_path: Path) -> None:
    """One service name, another server behind it: nothing is restarted, nothing lost that the replica had."""
    with EmbeddedSentinel() as sentinel:
        async with World(sentinel.url, postgres_url, tmp_path) as world:
            world.variables |= STEADY
            for _ in range(2):
                await world.start_daemon()
            await world.publish_many([f"t{n}" for n in range(60)], tokens=200)
            with sentinel.primary.client() as plain:
                assert await asyncio.to_thread(plain.execute_command, "WAIT", 1, 4000) == 1
            await asyncio.to_thread(sentinel.primary.kill)
            await world.publish("late")
            await world.quiescent(within_s=90)
            await one_result_each(world, 61)
            assert all(daemon.running for daemon in world.daemons)
