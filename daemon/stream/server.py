"""Is this Redis fit to hold accepted work? Asked once at start."""

from __future__ import annotations

from typing import Any

from redis import exceptions as rx
from redis.asyncio import Redis

from daemon.config import RedisSettings
from daemon.errors import ConfigError
from daemon.logs import logger
from daemon.stream.connection import translated

_log = logger(__name__)


async def check_server(client: Redis, settings: RedisSettings) -> None:
    """Raises `ConfigError` when the policy may evict the work stream; warns when a restart would lose accepted work.

    A managed server that forbids INFO is taken as it is. Raises `RedisAway` when nobody answers.
    """
    with translated():
        try:
            info: dict[str, Any] = {**await client.info("memory"), **await client.info("persistence")}
        except rx.ResponseError:  # NOPERM, or a proxy without INFO
            _log.warning("redis.unchecked")
            return
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and not settings.allow_eviction:
        raise ConfigError(
            [
                (
                    f"REDIS_URL: this server's maxmemory-policy is {policy!r}, which may evict accepted work; "
                    "allowed: noeviction (set it, or QSTREAMD_ALLOW_EVICTION=true for a throw-away server)"
                )
            ]
        )
    if not info.get("aof_enabled"):
        _log.warning("redis.not_persistent", hint="appendonly yes, appendfsync always: a restart loses accepted work")
