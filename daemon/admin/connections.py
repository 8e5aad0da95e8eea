"""What an operator's command is connected to: Redis, Postgres if it answers, and the services file.

Opened for one command and closed with it. Reads without asking whose servers these are; whoever changes something calls
`require_ours` first. Called by `cli`.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Self

from redis.asyncio import Redis

from daemon import services
from daemon.config import Settings
from daemon.domain.clock import SystemClock
from daemon.domain.errors import ConfigError, StoreAway
from daemon.redis_client.connection import connect, translated
from daemon.redis_client.ownership import check_environment
from daemon.redis_client.scripts import Scripts
from daemon.services import ServiceCatalog
from daemon.store.history import History
from daemon.store.pool import Pool
from daemon.store.records import TaskRecords

POOL_SIZE = 4  #: connections of one command; its rounds are pipelines


class Connections:
    """An async context manager. `no_store` says why there is no Postgres ("" when there is)."""

    def __init__(self, settings: Settings, *, redis_may_be_away: bool = False) -> None:
        self.settings = settings
        self.clock = SystemClock()
        self.catalog: ServiceCatalog = services.load(settings.runtime.services_file, deep=False)
        self.redis: Redis = connect(settings.redis, size=POOL_SIZE, name="qstreamd-admin")
        self.scripts = Scripts(self.redis)
        self.no_store = "not asked for"
        self._redis_may_be_away = redis_may_be_away
        self._pool: Pool | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._stack.push_async_callback(self.redis.aclose)
        try:
            if not self._redis_may_be_away:
                with translated():
                    await self.redis.ping()
            await self._open_store()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def pool(self) -> Pool:
        """Postgres. Raises `StoreAway` when it does not answer, `ConfigError` when it was never named."""
        if self._pool is None:
            if self.settings.postgres.url is None:
                raise ConfigError([f"DATABASE_URL: {self.no_store}"])
            raise StoreAway(self.no_store)
        return self._pool

    @property
    def records(self) -> TaskRecords:
        """Rows one at a time. Raises as `pool` does."""
        return TaskRecords(self.pool)

    @property
    def history(self) -> History:
        """Rows in lists and sums. Raises as `pool` does."""
        return History(self.pool)

    async def require_ours(self) -> None:
        """Raises `ConfigError` when this Redis belongs to another NODE_ENV: nothing of it may be changed."""
        await check_environment(self.redis, self.settings.runtime.environment)

    async def _open_store(self) -> None:
        if self.settings.postgres.url is None:
            self.no_store = "is not set; what Postgres knows is left out"
            return
        pool = Pool(self.settings.postgres)
        self._stack.push_async_callback(pool.close)
        try:
            self._pool = await pool.start()
        except StoreAway as error:
            self.no_store = str(error)
        else:
            self.no_store = ""
