"""Whose Redis this is: the `NODE_ENV` that wrote here first owns it, and a process of another one refuses to start."""

from __future__ import annotations

from redis.asyncio import Redis

from daemon.domain.errors import ConfigError
from daemon.redis_client import keys
from daemon.redis_client.connection import translated


async def claim_environment(client: Redis, environment: str) -> None:
    """Stamp the server, or find our stamp there; raises `ConfigError` when it is somebody else's. Repeatable.

    Reads first: a full Redis refuses SET even when there is nothing to set.
    """
    with translated():
        owner = await client.get(keys.ENVIRONMENT)
        if owner is None:
            await client.set(keys.ENVIRONMENT, environment, nx=True)
            owner = await client.get(keys.ENVIRONMENT)
    if owner not in {None, environment.encode()}:
        name = repr(owner)[:40]
        raise ConfigError([f"NODE_ENV: this is {environment!r}, but the Redis of REDIS_URL belongs to {name}"])
