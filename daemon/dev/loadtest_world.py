"""What `loadtest --in-process` sends its load to: embedded servers, stand-ins, relay and daemon of their own."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import aiohttp

from daemon.admin.load_generator import Order, Progress, Target
from daemon.admin.load_report import LoadReport
from daemon.admin.load_test import load_test
from daemon.config import Settings
from daemon.dev.demo.world import World

#: what the models do wrong, by turns: half an answer and an error, a cut connection, a 429 with a time to come back
FAULTS: Final = ("error-mid", "cut", "429-after-1")


@asynccontextmanager
async def loadtest_world(calls: int, fault_share: float) -> AsyncIterator[World]:
    """A world of its own, whatever REDIS_URL and DATABASE_URL say; `fault_share` of some `calls` to models go wrong."""
    async with World(Settings(), lambda *_: None) as world:
        if fault_share:
            rng = random.Random(11)
            plan = [rng.choice(FAULTS) if rng.random() < fault_share else "ok" for _ in range(calls)]
            async with (
                aiohttp.ClientSession() as session,
                session.post(f"{world.models.url}/_fake/plan", json={"faults": plan}) as answer,
            ):
                answer.raise_for_status()
        yield world


async def run_in_process(order: Order, sla_s: float, tell: Callable[[Progress], None]) -> LoadReport:
    """Send the load to a world of its own, and say what became of it."""
    calls = round(order.per_minute / 60 * order.duration_s * 3) + 10
    async with loadtest_world(calls, order.fault_share) as world:
        target = Target(world.relay_url, world.qstash.environment["QSTASH_CURRENT_SIGNING_KEY"])
        return await load_test(world.redis, order, target, sla_s, tell)
