"""What docs/deploy.md promises of several hosts, of an upgrade without a pause and of a restored Redis."""

from __future__ import annotations

import signal

import pytest
from redis.asyncio import Redis

from tests.e2e.world import World
from tests.waiting import WaitUntil

pytestmark = pytest.mark.timeout(120)


async def test_relays_and_daemons_of_several_hosts_are_one_system(world: World) -> None:
    """Either relay takes a message once for both; both daemons work, and a model's limit holds over them."""
    first, second = await world.start_relay(), await world.start_relay()
    await world.start_daemon()
    await world.start_daemon()
    for n in range(12):
        world.relay = (first, second)[n % 2]
        await world.publish(f"t{n}", tokens=60)
        world.relay = (second, first)[n % 2]
        await world.publish(f"t{n}", tokens=60)
    for n in range(12):
        await world.ended(f"t{n}")
    history = await world.check()
    assert history.calls() == 12
    owners = await world.sql("SELECT DISTINCT owner FROM qstreamd.tasks")
    assert len(owners) == 2


async def test_an_upgrade_with_a_second_daemon_pauses_nothing(world: World) -> None:
    """The new one reads before the old one drains: every task is run once, by its first attempt."""
    old = await world.start_daemon()
    await world.publish_many((f"old{n}" for n in range(5)), tokens=300)
    await world.seen("old4", "token_batch")
    await world.start_daemon()
    old.signal(signal.SIGTERM)
    await world.publish_many((f"new{n}" for n in range(5)), tokens=20)
    for n in range(5):
        new = await world.ended(f"new{n}")
        assert new["type"] == "done"
    assert await old.ended() == 0
    await world.check()
    attempts = await world.sql("SELECT DISTINCT attempt, failures FROM qstreamd.tasks")
    assert [tuple(row.values()) for row in attempts] == [(1, 0)]


async def test_an_older_redis_beside_a_newer_postgres_runs_nothing_twice(world: World, wait_until: WaitUntil) -> None:
    """Restored from before the task was run: its entry comes again, only its end is told again."""
    async with Redis.from_url(world.redis_url) as client:
        await world.publish("t1")
        saved = {key: await client.dump(key) or b"" for key in await client.keys()}
        daemon = await world.start_daemon()
        await world.ended("t1")
        assert await daemon.stop() == 0
        await client.flushdb()
        for key, value in saved.items():
            await client.restore(key, 0, value)
    again = await world.start_daemon()
    await wait_until(lambda: again.log("attempt.ended"), description="the entry was read again")
    assert [line["outcome"] for line in again.log("attempt.ended")] == ["repeated"]
    assert (await world.ended("t1"))["type"] == "done"
    assert world.calls("t1") == 1 and (await world.row("t1"))["attempt"] == 1


@pytest.mark.long
async def test_without_a_backup_of_redis_claimed_tasks_go_on(world: World) -> None:
    """An empty one: what Postgres says is running is put back and run again."""
    daemon = await world.start_daemon()
    await world.publish("t1", tokens=400)
    await world.seen("t1", "token_batch")
    daemon.kill()
    await world.redis.flushdb()
    await world.start_daemon()
    done = await world.ended("t1", within_s=30)
    assert (done["type"], done["attempt"], world.calls("t1")) == ("done", 2, 2)
