"""Many tasks, four daemons, and a nemesis that deals faults from a seed; then the checker reads the whole history.

`make test` publishes for 40 seconds, `make chaos` 20,000 tasks. The seed is printed: `CHAOS_SEED=… pytest …` deals the
same again. A run without a violation in n tasks says that the rate is below 3/n with 95 % confidence (rule of three).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from daemon.dev.embedded_postgres import EmbeddedPostgres
from daemon.dev.embedded_redis import EmbeddedRedis
from daemon.redis_client import keys
from tests.e2e.forked import fork
from tests.e2e.processes import DaemonProcess
from tests.e2e.world import LEASE_S, World
from tests.proxy import Proxy

pytestmark = pytest.mark.timeout(3600)

#: a pack of cards; one is dealt every quarter of a second, and what one pack holds comes in every run
FAULTS: Final = {
    "nothing": 12, "kill": 8, "pause": 5, "black_hole": 3, "connections": 3, "backends": 3, "poison": 5, "redis": 1,
    "postgres": 1,
}  # fmt: skip
SERVICES: Final = ["plain"] * 12 + [
    "f-cut-once", "f-500-once", "f-429-after-1-once", "f-no-finish-once", "f-blocked", "f-reset-once",
]  # fmt: skip
TASKS: Final = 20_000  #: of the whole run
PUBLISH_S: Final = 40.0  #: of the sample: with what follows it stays within a minute
PRODUCERS: Final = 16
#: between two tasks of a producer of the sample: some 25 tasks a second, which leaves the machine to others as well
PAUSE_S: Final = 0.5


class Nemesis:
    """Deals and does faults until stopped; keeps four daemons alive, one of them at least behind the proxy."""

    def __init__(
        self, world: World, redis: EmbeddedRedis, postgres: EmbeddedPostgres, proxy: Proxy, rng: random.Random
    ) -> None:
        self._world, self._redis, self._postgres, self._proxy, self._rng = world, redis, postgres, proxy, rng
        self._far: list[DaemonProcess] = []  # those behind the proxy
        self._pack: list[str] = []
        self.packs = 0  #: that were dealt whole
        self.done: Counter[str] = Counter()

    async def run(self, stop: asyncio.Event) -> None:
        """One fault after another."""
        while not stop.is_set():
            while sum(daemon.running for daemon in self._world.daemons) < 4:
                self._start()
            kind = self._deal()
            with suppress(OSError):  # our own look at a server that is away
                await getattr(self, kind)()
            self.done[kind] += 1
            self.packs = self.done.total() // sum(FAULTS.values())
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.25)

    def _deal(self) -> str:
        if not self._pack:
            self._pack = [kind for kind, count in FAULTS.items() for _ in range(count)]
            self._rng.shuffle(self._pack)
        return self._pack.pop()

    def _start(self) -> None:
        far = not any(daemon.running for daemon in self._far)
        url = self._proxy.url_of(self._world.redis_url) if far else ""
        daemon = self._world.new_daemon(redis_url=url, QSTREAMD_CRASHES_MAX="50")
        daemon.start()
        if far:
            self._far.append(daemon)

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

    async def black_hole(self) -> None:
        """What goes through the proxy arrives nowhere for up to two leases; then those connections are gone."""
        self._proxy.silent = True
        await asyncio.sleep(self._rng.uniform(0.2, 2.0) * LEASE_S)
        self._proxy.silent = False
        self._proxy.cut()

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
async def own(
    redis_server: EmbeddedRedis, postgres_server: EmbeddedPostgres, tmp_path: Path, *, whole: bool
) -> AsyncIterator[World]:
    """A world whose servers may die."""
    calm = {"QSTREAMD_BREAKER_OPEN_S": "0.5", "QSTREAMD_BREAKER_OPEN_MAX_S": "1"}  # flow control has its own tests
    world = World(redis_server.url, postgres_server.url, tmp_path, tokens_per_s=100, variables=calm)
    if not whole:  # beside other tests: a daemon that is killed every second may not cost half a second each time
        world.spawned_by = fork
    async with world:
        yield world


async def produce(world: World, seed: int, more: Callable[[int], bool], pause_s: float) -> None:
    """Tasks, each drawn from the seed and its number, as long as there is to be `more`."""
    numbers = itertools.count()

    async def producer() -> None:
        while more(n := next(numbers)):
            rng = random.Random(f"{seed} {n}")
            service, tokens = rng.choice(SERVICES), rng.randint(5, 60)
            queue = rng.choice(["q_paid_stream", "q_paid_batch"])
            for _ in range(2 if n % 20 == 0 else 1):  # now and then QStash delivers twice
                await world.publish(f"t{n}", service, tokens=tokens, queue=queue)
            await asyncio.sleep(rng.uniform(0, 2) * pause_s)

    async with asyncio.TaskGroup() as producers:
        for _ in range(PRODUCERS):
            producers.create_task(producer())


async def test_nothing_is_lost_and_nothing_finished_twice(
    own: World, redis_server: EmbeddedRedis, postgres_server: EmbeddedPostgres, *, whole: bool
) -> None:
    """Every accepted task ends exactly once, whatever happened on its way."""
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1 << 32))  # noqa: TID251
    print(f"CHAOS_SEED={seed}")  # noqa: T201
    await own.start_relay()
    stop, began = asyncio.Event(), time.monotonic()
    async with Proxy.before(own.redis_url) as proxy:
        nemesis = Nemesis(own, redis_server, postgres_server, proxy, random.Random(seed))

        def more(n: int) -> bool:
            return n < TASKS if whole else time.monotonic() - began < PUBLISH_S or not nemesis.packs

        async with asyncio.TaskGroup() as group:
            group.create_task(nemesis.run(stop))
            await produce(own, seed, more, 0.0 if whole else PAUSE_S)
            stop.set()
        history = await own.check(within_s=600 if whole else 60, overlap_s=3 * LEASE_S)
    count = len(own.published)
    print(  # noqa: T201
        f"{count} tasks in {time.monotonic() - began:.0f} s, {dict(nemesis.done)}, ended {dict(history.states())}, "
          f"{history.calls()} model calls; no violation: below {3 / count:.4%} with 95 % confidence")  # fmt: skip
    assert set(nemesis.done) == set(FAULTS)
    assert history.states()["expired"] == 0 and history.states().total() == count
