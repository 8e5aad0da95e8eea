"""One load test, from the first call to its report. Called by the command `loadtest`."""

from __future__ import annotations

from collections.abc import Callable

from redis.asyncio import Redis

from daemon.admin.load_generator import Generator, Order, Progress, Target
from daemon.admin.load_report import LoadReport, report
from daemon.config import RedisSettings
from daemon.domain.clock import SystemClock
from daemon.redis_client.connection import connect


async def load_test(
    redis: Redis, order: Order, target: Target, sla_s: float, tell: Callable[[Progress], None]
) -> LoadReport:
    """Send the load and follow each task to its end; `tell` is called each second."""
    generator = Generator(target, redis, SystemClock(), order)
    await generator.run(lambda: tell(generator.progress))
    return report(generator.tasks.values(), generator.progress, sla_s)


async def load_running(
    settings: RedisSettings, order: Order, target: Target, sla_s: float, tell: Callable[[Progress], None]
) -> LoadReport:
    """The same on the Redis of a running system."""
    redis = connect(settings, size=4, name="qstreamd-loadtest")
    try:
        return await load_test(redis, order, target, sla_s, tell)
    finally:
        await redis.aclose()
