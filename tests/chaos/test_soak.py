"""Many tasks, four daemons, and a nemesis that draws faults from a seed; then the checker reads the whole history.

`make test` runs 200 tasks, `make chaos` 20,000. The seed is printed: `CHAOS_SEED=… pytest …` repeats the same draws.
A run without a violation in n tasks says that the rate is below 3/n with 95 % confidence (rule of three).
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from daemon import keys
from daemon.dev.embedded_postgres import EmbeddedPostgres
from daemon.dev.embedded_redis import EmbeddedRedis
from tests.e2e.processes import DaemonProcess
from tests.e2e.world import LEASE_S, World

pytestmark = pytest.mark.timeout(3600)

#: weights of the faults; one is drawn every quarter of a second
FAULTS = {"nothing": 12, "kill": 8, "pause": 5, "connections": 3, "backends": 3, "poison": 5, "redis": 1, "postgres": 1}
SERVICES = ["plain"] * 12 + [
    "f-cut-once",
    "f-500-once",
    "f-429-after-1-once",
    "f-no-finish-once",
    "f-blocked",
    "f-reset-once",
]


class Nemesis:
    """Draws and does faults until stopped; keeps four daemons alive."""

    def __init__(self, world: World, redis: EmbeddedRedis, postgres: EmbeddedPostgres, rng: random.Random) -> None:
        self._world, self._redis, self._postgres, self._rng = world, redis, postgres, rng
        self.done: Counter[str] = Counter()

    async def run(self, stop: asyncio.Event) -> None:
        """One fault after another."""
        while not stop.is_set():
            kind = self._rng.choices(list(FAULTS), list(FAULTS.values()))[0]
            self.done[kind] += 1
            with suppress(OSError):  # our own look at a server that is away
                await getattr(self, kind)()
            while sum(daemon.running for daemon in self._world.daemons) < 4:
                self._world.new_daemon(QSTREAMD_CRASHES_MAX="50").start()
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.25)

    def _one(self) -> DaemonProcess:
        return self._rng.choice([daemon for daemon in self._world.daemons if daemon.running])

    async def nothing(self) -> None:
        """A quiet moment."""

    async def kill(self) -> None:
        """SIGKILL to one daemon."""
        self._one().kill()

    async def pause(self) -> None:
        """One daemon stands still for up to two leases."""
        daemon = self._one()
        daemon.pause()
        await asyncio.sleep(self._rng.uniform(0.2, 2.0) * LEASE_S)
        daemon.resume()

    async def connections(self) -> None:
        """All connections to Redis are cut."""
        await self._world.redis.client_kill_filter(_type="normal", skipme=True)

    async def backends(self) -> None:
        """All connections to Postgres are cut."""
        await self._world.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'qstreamd'"
        )

    async def poison(self) -> None:
        """An entry that nobody can read."""
        await self._world.redis.xadd(keys.queue_keys("q_paid_stream").tasks, {"task": "{poison"})

    async def redis(self) -> None:
        """Redis loses power and comes back with what it had acknowledged."""
        await asyncio.to_thread(self._redis.kill)
        await asyncio.to_thread(self._redis.start)

    async def postgres(self) -> None:
        """Postgres is away for a second."""
        await asyncio.to_thread(self._postgres.kill)
        await asyncio.sleep(LEASE_S)
        await asyncio.to_thread(self._postgres.start)


@pytest.fixture
async def own(redis_server: EmbeddedRedis, postgres_server: EmbeddedPostgres, tmp_path: Path) -> AsyncIterator[World]:
    """A world whose servers may die."""
    calm = {"QSTREAMD_BREAKER_OPEN_S": "0.5", "QSTREAMD_BREAKER_OPEN_MAX_S": "1"}  # flow control has its own tests
    async with World(redis_server.url, postgres_server.url, tmp_path, tokens_per_s=100, variables=calm) as world:
        yield world


@pytest.mark.long
async def test_nothing_is_lost_and_nothing_finished_twice(
    own: World, redis_server: EmbeddedRedis, postgres_server: EmbeddedPostgres, *, whole: bool
) -> None:
    """Every accepted task ends exactly once, whatever happened on its way."""
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1 << 32))  # noqa: TID251
    rng, count = random.Random(seed), 20_000 if whole else 200
    print(f"CHAOS_SEED={seed}")  # noqa: T201
    await own.start_relay()
    nemesis, stop, began = Nemesis(own, redis_server, postgres_server, rng), asyncio.Event(), time.monotonic()
    async with asyncio.TaskGroup() as group:
        group.create_task(nemesis.run(stop))
        gate = asyncio.Semaphore(16)

        async def produce(n: int) -> None:
            async with gate:
                service, tokens = rng.choice(SERVICES), rng.randint(5, 60)
                queue = rng.choice(["q_paid_stream", "q_paid_batch"])
                for _ in range(2 if n % 20 == 0 else 1):  # now and then QStash delivers twice
                    await own.publish(f"t{n}", service, tokens=tokens, queue=queue)

        await asyncio.gather(*(produce(n) for n in range(count)))
        stop.set()
    history = await own.check(within_s=600 if whole else 60, overlap_s=3 * LEASE_S)
    print(  # noqa: T201
        f"{count} tasks in {time.monotonic() - began:.0f} s, {dict(nemesis.done)}, ended {dict(history.states())}, "
          f"{history.calls()} model calls; no violation: below {3 / count:.4%} with 95 % confidence")  # fmt: skip
    assert history.states()["expired"] == 0 and history.states().total() == count
