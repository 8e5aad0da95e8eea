"""Whose Redis this is: the `NODE_ENV` of the first process that started here; one of another refuses to start.

Looked up before the start, and written only by a process that has started: one that fails leaves no stamp. FLUSHALL
removes the stamp, so those who run write it again.
"""

from __future__ import annotations

from redis.asyncio import Redis

from daemon.domain.errors import ConfigError
from daemon.redis_client import keys
from daemon.redis_client.connection import translated


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
