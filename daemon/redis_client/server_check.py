"""Is this Redis fit to hold accepted work? Asked once at start."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from redis import exceptions as rx
from redis.asyncio import Redis

from daemon.config import RedisSettings
from daemon.domain.errors import ConfigError
from daemon.observability.logging import logger
from daemon.redis_client import keys
from daemon.redis_client.connection import nodes_of, translated

_log = logger(__name__)


#: how long the read of the probe asks to be blocked, and from when on it was
_PROBE_MS: Final = 300
_PROBED_S: Final = 0.2


async def check_server(client: Redis, settings: RedisSettings) -> bool:
    """Whether blocking reads block, asked only in the metered profile (it takes 0.3 s); True in any other.

    Asks every node of a cluster. Raises `ConfigError` when the policy may evict the work stream, or REDIS_URL names a
    cluster as one server or the other way round; warns when a restart would lose accepted work. A managed server that
    forbids INFO is taken as it is. Raises `RedisAway` when nobody answers.
    """
    persistent = True
    for node in await nodes_of(client):
        with translated():
            try:
                info: dict[str, Any] = {}
                for section in ("memory", "persistence", "cluster"):
                    info |= await node.info(section)
            except rx.ResponseError:  # NOPERM, or a proxy without INFO
                _log.warning("redis.check_skipped")
                break
        _refuse(info, settings, of_cluster=node is not client)
        persistent = persistent and bool(info.get("aof_enabled"))
    if not persistent:
        _log.warning("redis.not_persistent", hint="appendonly yes, appendfsync always: a restart loses accepted work")
    return await _blocks(client, settings)


def _refuse(info: Mapping[str, Any], settings: RedisSettings, *, of_cluster: bool) -> None:
    if info.get("cluster_enabled") and not of_cluster:
        raise ConfigError(["REDIS_URL: this server is a node of a cluster; write redis+cluster:// before its address"])
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


async def _blocks(client: Redis, settings: RedisSettings) -> bool:
    """Some managed servers take BLOCK and answer at once: then reads are polled, which costs more commands."""
    if settings.profile != "metered":
        return True
    began = time.monotonic()
    with translated():
        try:
            await client.xread({keys.BLOCK_PROBE: "0-0"}, block=_PROBE_MS)
        except rx.ResponseError:
            began = float("inf")
    if time.monotonic() - began >= _PROBED_S:
        return True
    _log.warning(
        "redis.does_not_block", hint="queues are polled, up to every 15 s each; see docs/guides/metered-redis.md"
    )
    return False
