"""Whose Redis this is: the `NODE_ENV` of the first process that started here; one of another refuses to start.

Looked up before the start, and written only by a process that has started: one that fails leaves no stamp. FLUSHALL
removes the stamp, so those who run write it again.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Final

from redis.asyncio import Redis

from daemon.domain.errors import ConfigError, RedisAway, RedisFull
from daemon.observability.logging import logger
from daemon.redis_client import keys
from daemon.redis_client.connection import translated

_log: Final = logger(__name__)


async def check_environment(client: Redis, environment: str) -> bool:
    """Whether our stamp is there; raises `ConfigError` when it is somebody else's. Writes nothing."""
    with translated():
        owner = await client.get(keys.ENVIRONMENT)
    if owner not in {None, environment.encode()}:
        raise ConfigError([f"NODE_ENV: this is {environment!r}, but the Redis of REDIS_URL belongs to {owner!r:.40}"])
    return owner is not None


async def claim_environment(client: Redis, environment: str) -> None:
    """Stamp the server, or find our stamp there; raises as `check_environment`. Repeatable.

    Reads first: a full Redis refuses SET even when there is nothing to set.
    """
    if not await check_environment(client, environment):
        with translated():
            await client.set(keys.ENVIRONMENT, environment, nx=True)
        await check_environment(client, environment)


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
