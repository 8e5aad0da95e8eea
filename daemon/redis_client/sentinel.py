"""The primary that Sentinel names: looked up anew whenever a connection is made, so that a failover is followed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool

from daemon.config.redis_url import Deployment


class SentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """redis-py's pool of Sentinel, waiting for a connection instead of failing as our other pools do."""

    async def aclose(self) -> None:
        """Close the connections to the sentinels too. Repeatable."""
        await super().aclose()
        await self.sentinel_manager.aclose()


def connect_by_sentinel(where: Deployment, limits: Mapping[str, Any]) -> Redis:
    """A client of the primary of a service. `limits` are those of its pool.

    Each sentinel is asked once, under the time limit of a connect: the next one knows as well.
    """
    said = parse_url(where.url)
    tls = said.pop("connection_class", None) is SSLConnection
    shared = {name: value for name, value in said.items() if name not in {"host", "port"}} | {"ssl": tls}
    user, password = where.sentinel_login
    limit_s = limits["socket_connect_timeout"]
    asking = {name: value for name, value in shared.items() if name.startswith("ssl")}
    asking |= {"username": user, "password": password, "socket_timeout": limit_s, "socket_connect_timeout": limit_s}
    sentinel: Any = Sentinel(list(where.addresses), sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
    client: Redis = sentinel.master_for(where.service, connection_pool_class=SentinelPool, **shared, **limits)
    return client
