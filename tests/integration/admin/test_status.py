"""One look at a real Redis and Postgres."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.admin.connections import Connections
from daemon.admin.status import Overview, QueueState, read_overview
from daemon.config import PostgresSettings, Settings
from daemon.config.settings import QueueSettings, RedisSettings
from daemon.config.types import SecretStr
from daemon.domain.errors import ConfigError, RedisAway, StoreAway
from daemon.redis_client import keys
from tests.integration.admin.conftest import LEASE_MS, System

QUEUE = "q_paid_stream"


def queue(overview: Overview, name: str = QUEUE) -> QueueState:
    """One of them."""
    return next(q for q in overview.queues if q.name == name)


async def test_an_empty_server_is_all_zeros(at: Connections) -> None:
    """No stream and no group exists yet."""
    found = await read_overview(at)
    assert len(found.queues) == 6
    assert {(q.waiting, q.running, q.delayed, q.dead, q.slots, q.places) for q in found.queues} == {(0, 0, 0, 0, 0, 0)}
    assert (found.consumers, found.recent, found.notes) == ([], [], [])


async def test_sizes_are_those_of_the_streams(at: Connections, system: System) -> None:
    """Three accepted, one in hand, one delayed; what was deleted in between does not count."""
    await system.finish("t0")
    for n in range(1, 5):
        await system.accept(f"t{n}")
    first, second = await system.read(count=2)
    await system.park(second, "GUARD_USER", 60_000)
    await system.hold(keys.model_permits("deepseek-pro", "paid"), f"{first.id}:x", "t9:y")
    found = await read_overview(at)
    q = queue(found)
    assert (q.waiting, q.running, q.delayed, q.dead, q.consumers, q.slots) == (2, 1, 1, 0, 1, 20)
    assert q.places == 4, "nothing of these has started"
    assert q.oldest_wait_s is not None
    assert 0 <= q.oldest_wait_s < 30
    assert q.next_due_s is not None
    assert 50 < q.next_due_s <= 60
    guard = next(g for g in found.limiters if (g.model, g.tier) == ("deepseek-pro", "paid"))
    assert (guard.in_use, guard.limit, guard.closed) == (2, 20, "")
    [consumer] = found.consumers
    assert (consumer.name, consumer.alive, consumer.pending) == ("host-1-abcd", True, 1)
    assert found.recent is not None
    assert (found.recent[0].outcomes, found.recent[0].tokens) == ({"done": 1}, 10)


async def test_waiting_is_right_where_xinfo_s_lag_is_nil(at: Connections, system: System) -> None:
    """The newest delivered entry is deleted while older ones run and newer ones wait."""
    for n in range(4):
        await system.accept(f"t{n}")
    _, _, newest = await system.read(count=3)
    await at.scripts.run([system.work.ack_call(newest, whole_task=True)])
    assert (await at.redis.xinfo_groups(keys.queue_keys(QUEUE).tasks))[0]["lag"] is None
    q = queue(await read_overview(at))
    assert (q.waiting, q.running) == (1, 2)


async def test_the_control_hash_wins_over_settings(settings: Settings) -> None:
    """And settings over the services file."""
    tuned = settings.model_copy(update={"queues": QueueSettings(parallelism_paid_stream=7, max_paid_stream=50)})
    async with Connections(tuned) as at:
        q = queue(await read_overview(at))
        assert (q.max_size, q.paused) == (50, False)
        control: dict[Any, Any] = {"paused": "1", "why": "deploy", "maxSize": "9", "parallelism": "nonsense"}
        await at.redis.hset(keys.queue_keys(QUEUE).control, mapping=control)
        await System(at).work.register(at.scripts, [QUEUE], LEASE_MS)
        q = queue(await read_overview(at))
        assert (q.max_size, q.paused, q.paused_why, q.slots) == (9, True, "deploy", 7)
        await at.redis.hset(keys.queue_keys(QUEUE).control, "globalParallelism", "3")
        assert queue(await read_overview(at)).slots == 3


async def test_a_silent_consumer_is_told_from_a_living_one(at: Connections, system: System) -> None:
    """Lapsed by its record; without a record it is neither."""
    await system.accept("t1")
    await system.read()
    await at.redis.zadd(keys.CONSUMERS, {f"{QUEUE}/{system.consumer}": 1})
    [lapsed] = (await read_overview(at)).consumers
    assert (lapsed.alive, lapsed.dead, lapsed.pending) == (False, False, 1)
    await at.redis.delete(keys.CONSUMERS)
    [unknown] = (await read_overview(at)).consumers
    assert (unknown.alive, unknown.record_s) == (None, None)


async def test_without_postgres_the_rest_is_told(settings: Settings) -> None:
    """And why the rest is missing."""
    dead = SecretStr("postgresql://nobody@127.0.0.1:1/none")
    for postgres, why in ((PostgresSettings(), "is not set"), (PostgresSettings(url=dead), "can't be reached")):
        async with Connections(settings.model_copy(update={"postgres": postgres})) as at:
            found = await read_overview(at)
            assert found.recent is None
            assert why in found.notes[0]
            with pytest.raises((ConfigError, StoreAway)):
                _ = at.records


async def test_a_redis_that_is_away_is_said_at_once(settings: Settings) -> None:
    """Exit 75 at the command line."""
    away = settings.model_copy(update={"redis": RedisSettings(url=SecretStr("redis://127.0.0.1:1/0"))})
    with pytest.raises(RedisAway):
        async with Connections(away):
            pass  # pragma: no cover


async def test_a_redis_of_another_environment_is_not_touched(at: Connections) -> None:
    """Nothing may be changed there."""
    await at.require_ours()
    await at.redis.set(keys.ENVIRONMENT, "production")
    with pytest.raises(ConfigError, match="belongs to"):
        await at.require_ours()


async def test_a_key_of_a_wrong_type_is_an_error_and_no_zero(at: Connections) -> None:
    """An operator must not be told that nothing waits."""
    await at.redis.set(keys.queue_keys(QUEUE).tasks, "oops")
    with pytest.raises(Exception, match="WRONGTYPE"):
        await read_overview(at)
