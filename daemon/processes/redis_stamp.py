"""Keeps the environment stamp of Redis (`redis_client.ownership`), which FLUSHALL removes. Run by every process."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

from redis.asyncio import Redis

from daemon.domain.errors import ConfigError, RedisAway, RedisFull
from daemon.observability.logging import logger
from daemon.redis_client.ownership import claim_environment

_log = logger("environment")


async def keep_environment(client: Redis, environment: str, lost: asyncio.Event, every_s: float) -> None:
    """Write the stamp again when Redis has `lost` what it knew, and look after it once in a while; until cancelled."""
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(every_s * random.uniform(0.8, 1.0)):
                await lost.wait()
        lost.clear()
        try:
            await claim_environment(client, environment)
        except ConfigError as error:
            _log.error("environment.taken", mistakes=error.mistakes)
        except (RedisAway, RedisFull) as error:
            _log.warning("environment.unchecked", error=type(error).__name__)
