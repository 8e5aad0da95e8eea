"""Whose Redis and Postgres a process works on: both are looked up before the start and stamped after it."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from daemon.config import Settings
from daemon.processes.redis_stamp import keep_environment
from daemon.redis_client import ownership
from daemon.store import migrate
from daemon.store.pool import Pool


class Environment:
    """The `NODE_ENV` of this process, and its servers."""

    def __init__(self, client: Redis, pool: Pool, settings: Settings) -> None:
        self._client, self._pool = client, pool
        self._name, self._every_s = settings.runtime.environment, settings.lease.sweep_s

    async def check(self) -> None:
        """Raises `ConfigError` for servers of another environment or with another schema. Writes nothing."""
        await ownership.check_environment(self._client, self._name)
        await migrate.check_schema(self._pool)
        await migrate.check_environment(self._pool, self._name)

    async def claim(self) -> None:
        """Stamp both; only a process that has started does so. Raises as `check`; repeatable."""
        await ownership.claim_environment(self._client, self._name)
        await migrate.claim_environment(self._pool, self._name)

    async def keep(self, redis_forgot: asyncio.Event | None = None) -> None:
        """Stamp Redis again when it `redis_forgot` everything, until cancelled."""
        await keep_environment(self._client, self._name, redis_forgot or asyncio.Event(), self._every_s)
